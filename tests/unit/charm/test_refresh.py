# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The action refresh-snap: the deployment tool runs it on every unit and goes by its outcome."""

from typing import Any

import ops
import pytest
from ops import testing

import snapd
from tests.unit.charm.fake_daemon import Held
from tests.unit.charm.machine import NAME, SNAP_FILE, Machine, Snap, api_error
from tests.unit.charm.unit import Unit

UNDONE = """cannot perform the following tasks:
- Run post-refresh hook (run hook "post-refresh": this revision cannot take over: newer schema)"""


@pytest.fixture(autouse=True)
def finished(machine: Machine, unit: Unit) -> None:
    unit.hook("install")
    machine.done()
    machine.daemon.general = "0-1"
    machine.daemon.held = {
        "nova": Held(frozenset({2, 3, 4})),
        "ceph-osd.0": Held(frozenset({0}), "general", "non-preemptive", True),
    }
    machine.daemon.page_records["dpdk", 0, 1048576] = 2


@pytest.fixture
def stored(machine: Machine, unit: Unit) -> Machine:
    """A revision of the store is installed, and there is a newer one."""
    machine.add_installed(revision="8", channel="2024.1/stable")
    machine.store["2024.1/stable"] = Snap("9", "1.1", plugs=machine.snap.plugs)
    unit.config["snap-channel"] = "2024.1/stable"
    return machine


def failure(unit: Unit, **config: Any) -> str:
    unit.config |= {name.replace("_", "-"): value for name, value in config.items()}
    with pytest.raises(testing.ActionFailed) as caught:
        unit.action("refresh-snap")
    return caught.value.message


def test_refresh_snap_of_a_local_snap_is_a_success(machine: Machine, unit: Unit):
    results = unit.action("refresh-snap")
    assert results["result"].startswith("locally installed snap")
    assert results["revision"] == "x1"
    assert machine.done() == []


def test_refresh_snap_that_finds_nothing_newer_is_a_success(machine: Machine, unit: Unit):
    machine.add_installed(revision="8", channel="2024.1/stable")
    machine.store["2024.1/stable"] = Snap("8", plugs=machine.snap.plugs)
    unit.config["snap-channel"] = "2024.1/stable"
    assert unit.action("refresh-snap") == {
        "result": "revision 8 is already the newest of 2024.1/stable",
        "revision": "8",
        "version": "1.0",
        "allocations": "unchanged: 3/12 CPUs held by 1 service, general pool 1/2, 1G pages 2/16",
    }
    assert machine.done() == ["refresh epa-orchestrator 2024.1/stable"]


def test_refresh_snap_brings_the_newest_and_keeps_the_hold(machine: Machine, unit: Unit):
    machine.add_installed(revision="8", channel="2024.1/stable")
    machine.store["2024.1/stable"] = Snap("9", "1.1", plugs=machine.snap.plugs)
    unit.config["snap-channel"] = "2024.1/stable"
    results = unit.action("refresh-snap")
    assert results["result"] == "refreshed from revision 8 to 9"
    assert results["version"] == "1.1"
    assert machine.snap.hold is not None
    assert machine.references == ["LCK..epa-orchestrator--rev9__epa-orchestrator_0"]


def test_refresh_snap_fails_when_claims_are_lost(machine: Machine, unit: Unit):
    machine.add_installed(revision="8", channel="2024.1/stable")
    machine.store["2024.1/stable"] = Snap("9", plugs=machine.snap.plugs)
    unit.config["snap-channel"] = "2024.1/stable"
    machine.deeds["refresh"] = machine.daemon.held.clear
    lost = "nova holds isolated CPUs 2-4; ceph-osd.0 holds general CPUs 0"
    text = failure(unit)
    assert text == "claims lost by the refresh: " + lost


def test_refresh_snap_of_a_channel_that_is_gone_fails(machine: Machine, unit: Unit):
    machine.add_installed(revision="8", channel="2024.1/stable")
    unit.config["snap-channel"] = "2024.1/stable"
    text = failure(unit)
    assert text == "snap-channel '2024.1/stable' is not in the store"


def test_refresh_snap_installs_what_is_missing(machine: Machine, unit: Unit):
    del machine.snaps[NAME]
    results = unit.action("refresh-snap")
    assert results["result"] == "installed revision x1"


def test_refresh_snap_says_why_nothing_could_be_installed(machine: Machine, unit: Unit):
    del machine.snaps[NAME]
    machine.bundle.unlink()
    text = failure(unit)
    assert text.startswith("this charm carries no snap")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"snap_channel": "2030.1/stable"}, "snap-channel '2030.1/stable' is not in the store"),
        (
            {"snap_channel": "a b"},
            "snap-channel: 'a b' is not a channel such as 2024.1/stable",
        ),
        ({"cpu_pool": "all"}, "cpu-pool: 'all' is not a CPU list such as 2-7,12"),
    ],
)
@pytest.mark.parametrize("origin", ["file", "store"])
def test_what_cannot_be_had_is_a_failure_whatever_is_installed(
    origin: str, config: dict[str, str], text: str, machine: Machine, unit: Unit
):
    if origin == "store":
        machine.add_installed(revision="8", channel="2024.1/stable")
    revision = machine.snap.revision
    assert failure(unit, **config) == text
    assert unit.status == ops.BlockedStatus(text)
    assert machine.snap.revision == revision


def test_a_bundle_that_snapd_undoes_is_a_failure_and_tried_once(machine: Machine, unit: Unit):
    machine.bundle.write_bytes(SNAP_FILE + b"bundle 2")
    machine.failures["install"] = snapd.CommandFailed(UNDONE)
    text = "cannot install bundled snap: this revision cannot take over: newer schema"
    assert failure(unit) == text
    assert machine.done() == ["install --dangerous epa-orchestrator.snap"]
    assert unit.status == ops.BlockedStatus(text)


def test_a_store_that_cannot_be_reached_is_a_failure(stored: Machine, unit: Unit):
    stored.failures["refresh"] = api_error("lookup", "dns-failure")
    text = "the snap store cannot be reached (snap-channel '2024.1/stable')"
    assert failure(unit) == text


def test_a_client_that_moves_when_it_is_connected_has_lost_nothing(machine: Machine, unit: Unit):
    machine.add_client("openstack-hypervisor")

    def ask_again() -> None:
        machine.daemon.held["nova"] = Held(frozenset({5, 6}))

    machine.deeds["set openstack-hypervisor"] = ask_again
    results = unit.action("refresh-snap")
    assert results["allocations"].startswith("unchanged: 3/12 CPUs held by 1 service")
    assert any("configure-trigger" in change for change in machine.done())
    assert unit.status.message.startswith("2/12 CPUs held by 1 service")


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ({2, 3, 4, 5}, "kept, and more: 4/12 CPUs held by 1 service"),
        ({2, 4, 5}, "claims lost by the refresh: nova holds isolated CPUs 3"),
    ],
)
def test_claims_are_compared_cpu_by_cpu(after: set[int], said: str, stored: Machine, unit: Unit):
    def move() -> None:
        stored.daemon.held["nova"] = Held(frozenset(after))

    stored.deeds["refresh"] = move
    if said.startswith("kept"):
        assert unit.action("refresh-snap")["allocations"].startswith(said)
    else:
        assert failure(unit) == said


def test_fewer_hugepages_are_lost_ones(stored: Machine, unit: Unit):
    def forget() -> None:
        stored.daemon.page_records["dpdk", 0, 1048576] = 1

    stored.deeds["refresh"] = forget
    assert failure(unit) == (
        "claims lost by the refresh: dpdk holds 2 hugepages of 1048576 kB on node 0"
    )


def test_general_claims_that_lose_their_pool_are_not_lost(stored: Machine, unit: Unit):
    def drop() -> None:
        stored.daemon.general = None

    stored.deeds["refresh"] = drop
    assert unit.action("refresh-snap")["allocations"].startswith("unchanged: ")


def test_a_daemon_that_refuses_does_not_keep_its_cure_away(stored: Machine, unit: Unit):
    stored.daemon.refusals["list_allocations"] = "Allocation state is uncertain"
    stored.deeds["refresh"] = stored.daemon.refusals.clear
    results = unit.action("refresh-snap")
    assert results["result"] == "refreshed from revision 8 to 9"
    assert results["allocations"].startswith("not known before; now 3/12")


@pytest.mark.parametrize("slow", ["install", "refresh"])
def test_it_ends_before_the_deployment_tool_gives_up(slow: str, machine: Machine, unit: Unit):
    """Its limit is 600 s for a unit, and a snap may take hours to download."""
    machine.slow = slow
    machine.daemon_dead, machine.cured_by_restart = True, False
    if slow == "refresh":
        machine.add_installed(revision="8", channel="2024.1/stable")
        machine.store["2024.1/stable"] = Snap("8", plugs=machine.snap.plugs)
        unit.config["snap-channel"] = "2024.1/stable"
    else:
        machine.bundle.write_bytes(SNAP_FILE + b"bundle 2")
    begun = machine.now
    assert failure(unit).startswith("snapd is busy: ")
    assert 300 < machine.now - begun < 550


def test_conflicts_with_every_change_do_not_add_up(machine: Machine, unit: Unit):
    machine.snap.hold = None
    machine.connections = {c for c in machine.connections if c[0] != NAME}
    machine.add_client("openstack-hypervisor")
    for words in ("hold", "connect", "restart", "set", "start"):
        machine.failures[words] = api_error("snap has changes in progress", "snap-change-conflict")
    begun = machine.now
    assert failure(unit) == "snapd is busy: snap has changes in progress"
    assert machine.now - begun < 550
