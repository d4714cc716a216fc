# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What Open vSwitch's threads had, on a disk that fails: no start puts back what never was."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import disks
from tests.faults.disks import Disk
from tests.functional import test_ovs
from tests.functional.daemons import Daemon
from tests.functional.test_ovs import CPU, OURS, WITHOUT_IT, StandIn
from tests.functional.test_ovs import daemon as daemon
from tests.functional.test_ovs import stand_in as stand_in

# A daemon moves the threads of all that look like Open vSwitch on this host: one after the other.
pytestmark = [test_ovs.pytestmark, pytest.mark.xdist_group("ovs")]


@pytest.fixture
def disk(daemon: Daemon, library: Path) -> Disk:
    daemon.stop()
    made = disks.put_under(daemon, library)
    daemon.start()
    # The log gets its head with its first commit, and syncs that too.
    test_ovs.grant(daemon)
    return made


def test_masks_that_could_not_be_kept_are_not_put_back_by_the_next_start(
    daemon: Daemon, disk: Disk, stand_in: Callable[..., StandIn]
):
    """The masks are in SQLite's log, whole, and only their sync failed."""
    one = stand_in("ovs-vswitchd")
    disk.fail("sync", times=1)
    test_ovs.switch(daemon, "1")
    test_ovs.soon(lambda: disk.failed == 1)
    test_ovs.switch(daemon, "")
    test_ovs.soon(lambda: daemon.ask("get_ovs_affinity")["switch"]["state"] == "off")
    daemon.ask("get_history")  # Answered after whatever was begun with the store.
    daemon.kill()
    assert "cannot keep the masks" in daemon.log.read_text()
    assert one.masks() == {"ovs-vswitchd": OURS}
    os.sched_setaffinity(one.process.pid, WITHOUT_IT)
    daemon.start().ask("get_history")
    assert one.masks() == {"ovs-vswitchd": WITHOUT_IT}


def test_a_daemon_that_cannot_know_what_it_will_put_back_ends(
    daemon: Daemon, disk: Disk, stand_in: Callable[..., StandIn]
):
    """No sync works any more: whether the masks are kept can only be read from the disk."""
    one = stand_in("ovs-vswitchd")
    disk.fail("sync")
    test_ovs.switch(daemon, "1")
    assert daemon.process is not None
    assert daemon.process.wait(10) < 0, "the service manager restarts it after a signal"
    assert "check its disk" in daemon.log.read_text()
    assert one.masks() == {"ovs-vswitchd": OURS}
    disk.heal()
    daemon.start()
    assert daemon.owners(pool="general") == {"a": str(CPU)}
    test_ovs.soon(lambda: one.masks() == {"ovs-vswitchd": WITHOUT_IT})
