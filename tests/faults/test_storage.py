# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A disk that fails at any write, sync or cut: what a reply said stays true, now and later."""

import errno
import random
from pathlib import Path

import pytest

from epa_daemon import state_folder
from tests.faults import disks, load, stories, tally, witness
from tests.faults.budget import CHOSEN
from tests.faults.disks import Disk
from tests.faults.witness import Witness
from tests.functional.daemons import Daemon, MakeDaemon

# What fails, with which error, how many times; and whether shortly before SQLite moves its log.
KINDS = {
    "a-write-fails": ("write", errno.EIO, 1, False),
    "writes-fail": ("write", errno.EIO, 1000, False),
    "the-disk-is-full": ("write", errno.ENOSPC, 1000, False),
    "a-write-is-short": ("write", disks.SHORT, 3, False),
    "a-sync-fails": ("sync", errno.EIO, 1, False),
    "syncs-fail": ("sync", errno.EIO, 1000, False),
    "everything-fails": ("any", errno.EIO, 1000, False),
    "read-only": ("any", errno.EROFS, 1000, False),
    "a-write-fails-at-a-checkpoint": ("write", errno.EIO, 1, True),
    "the-disk-is-full-at-a-checkpoint": ("write", errno.ENOSPC, 1000, True),
    "a-sync-fails-at-a-checkpoint": ("sync", errno.EIO, 1, True),
    "syncs-fail-at-a-checkpoint": ("sync", errno.EIO, 1000, True),
}


def made(make_daemon: MakeDaemon, library: Path) -> tuple[Daemon, Disk]:
    daemon = make_daemon(stories.HOST, cpu_pool=stories.GENERAL)
    disk = disks.put_under(daemon, library)
    return daemon.start(), disk


def change(daemon: Daemon, told: Witness, chance: random.Random, count: int) -> bool:
    """Some requests, one after the other; whether the daemon ended instead of answering."""
    for _ in range(count):
        service = f"c{chance.randrange(2)}-{chance.randrange(3)}"
        request = load.requests_of(service, chance)
        told.note({"service": service, "request": request})
        try:
            reply = load.exchange(daemon.socket_path, request)
        except (OSError, ValueError):
            assert daemon.process is not None
            return daemon.process.wait(10) < 0
        told.note({"service": service, "reply": reply})
    return False


def fill_log(daemon: Daemon, told: Witness, chance: random.Random) -> None:
    """Let the log grow until a few more commits make SQLite move it into the database."""
    log = daemon.state / f"{state_folder.DATABASE}-wal"
    while log.stat().st_size < 980 * 4120:
        assert change(daemon, told, chance, 4) is False


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_fails_anywhere_makes_no_reply_a_lie(
    make_daemon: MakeDaemon, library: Path, kind: str
):
    daemon, disk = made(make_daemon, library)
    told, chance = Witness(), random.Random(f"{CHOSEN.seed} {kind}")
    what, error, times, at_checkpoint = KINDS[kind]
    failed = ended = 0
    # To fill the log takes a while.
    places = CHOSEN.faults // 3 if at_checkpoint else CHOSEN.faults
    for skip in range(places):
        if at_checkpoint:
            fill_log(daemon, told, chance)
        disk.fail(what, error, skip, times)
        if change(daemon, told, chance, skip + 10):
            ended += 1
        else:
            assert stories.lies(told.stories, witness.look(daemon)) == [], f"running, {skip=}"
        failed += disk.failed
        daemon.kill()
        disk.heal()
        daemon.start()
        seen = witness.look(daemon)
        assert stories.lies(told.stories, seen) == [], f"after the next start, {skip=}"
        told.begin_anew(seen)
        assert change(daemon, told, chance, 6) is False
    assert failed >= places * 2 // 3
    tally.add(
        "test_a_disk_that_fails_anywhere_makes_no_reply_a_lie",
        places=places,
        failed_calls=failed,
        ended=ended,
        lies=0,
    )


def test_what_was_answered_with_an_error_does_not_come_back(
    make_daemon: MakeDaemon, library: Path
):
    """The commit is in SQLite's log, whole, and only its sync failed: no start may take it up.

    It would take two CPUs from a service that was told that it has four.
    """
    daemon, disk = made(make_daemon, library)
    before = daemon.ask("allocate_cores", service_name="a", num_of_cores=4)
    disk.fail("sync", times=1)
    refused = daemon.ask("allocate_cores", service_name="a", num_of_cores=2)
    assert refused["code"] == "store-failed"
    assert disk.failed == 1
    daemon.kill()
    disk.heal()
    daemon.start()
    assert daemon.owners() == {"a": before["allocated_cores"]}


def test_a_daemon_that_cannot_know_does_not_answer_and_ends(
    make_daemon: MakeDaemon, library: Path
):
    """No sync works any more: whether the commit is on the disk can only be read from there."""
    daemon, disk = made(make_daemon, library)
    told = Witness()
    told.ask(daemon, "allocate_cores", service_name="a", num_of_cores=4)
    disk.fail("sync")
    assert told.ask(daemon, "allocate_cores", service_name="a", num_of_cores=2) == {}
    assert daemon.process is not None
    assert daemon.process.wait(10) < 0, "the service manager restarts it after a signal"
    assert "check its disk" in daemon.log.read_text()
    assert daemon.run().returncode == 78, "it stays down while it could not keep a promise"
    disk.heal()
    daemon.start()
    assert stories.lies(told.stories, witness.look(daemon)) == []


def test_what_a_start_finds_is_durable_before_it_is_shown(make_daemon: MakeDaemon, library: Path):
    """A commit whose process was killed before its sync is read from the host's memory.

    A client that repeats its request is told at once that it has it, without another commit.
    """
    daemon, disk = made(make_daemon, library)
    daemon.ask("allocate_cores", service_name="a", num_of_cores=4)
    daemon.kill()
    disk.fail("sync")
    done = daemon.run()
    assert done.returncode == 78
    assert "cannot be made durable" in done.stderr
    disk.heal()
    daemon.start()
    assert daemon.listing()["total_allocated_cpus"] == 4
