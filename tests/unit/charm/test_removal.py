# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Leaving: nothing of ours stays, nothing of anybody's goes, and nothing is ever raised."""

import pytest
from charmlibs import snap as snaplib

import removal
from tests.unit.charm.fake_daemon import Held
from tests.unit.charm.machine import NAME, Machine, api_error
from tests.unit.charm.unit import Unit


@pytest.fixture(autouse=True)
def finished(machine: Machine, unit: Unit) -> None:
    unit.hook("install")
    machine.done()


def test_a_snap_that_nobody_needs_is_removed(machine: Machine, unit: Unit):
    unit.hook("remove")
    assert machine.done() == ["remove epa-orchestrator"]
    assert not machine.tenants.exists()


def test_todays_daemon_is_removed_as_well(machine: Machine, unit: Unit):
    machine.daemon.old = True
    unit.hook("remove")
    assert machine.done() == ["remove epa-orchestrator"]


@pytest.mark.parametrize("hook", ["stop"])
def test_stop_changes_nothing(hook: str, machine: Machine, unit: Unit):
    unit.hook(hook)
    assert machine.done() == []
    assert machine.snap.active


@pytest.mark.parametrize("pool", ["isolated", "general"])
def test_claims_keep_the_snap_running_and_held(pool: str, machine: Machine, unit: Unit):
    machine.daemon.general = "0-1"
    cpu = 2 if pool == "isolated" else 0
    machine.daemon.held["nova"] = Held(frozenset({cpu}), pool)
    unit.hook("remove")
    assert machine.done() == []
    assert machine.snap.active
    assert machine.snap.hold
    assert machine.references == []
    assert (
        f"the snap stays: nova holds {pool} CPUs {cpu}; once they are released: "
        "snap remove epa-orchestrator" in unit.logs
    )


def test_general_claims_keep_the_snap_when_their_pool_is_no_more(machine: Machine, unit: Unit):
    machine.daemon.held["ceph-osd.0"] = Held(frozenset({0, 1}), "general", "non-preemptive")
    assert machine.daemon.general is None
    unit.hook("remove")
    assert machine.done() == []
    assert any("ceph-osd.0 holds general CPUs 0-1" in log for log in unit.logs)


@pytest.mark.parametrize("features", [["cpu-pools"], ["cpu-pools", "health"]])
def test_a_daemon_with_fewer_features_is_removed_as_well(
    features: list[str], machine: Machine, unit: Unit
):
    machine.daemon.features = features
    unit.hook("remove")
    assert machine.done() == ["remove epa-orchestrator"]


@pytest.mark.parametrize("action", ["list_allocations", "get_topology"])
def test_a_daemon_that_refuses_to_say_counts_as_claims(action: str, machine: Machine, unit: Unit):
    machine.daemon.refusals[action] = "Allocation state is uncertain"
    unit.hook("remove")
    assert machine.done() == []
    assert machine.snap.active
    assert (
        "the snap stays: who holds CPUs cannot be told (the daemon refuses: Allocation state is "
        "uncertain); if nobody does: snap remove epa-orchestrator" in unit.logs
    )


def test_hugepage_records_keep_the_snap(machine: Machine, unit: Unit):
    machine.daemon.page_records["dpdk", 0, 1048576] = 2
    unit.hook("remove")
    assert machine.done() == []
    assert any("dpdk holds 2 hugepages of 1048576 kB on node 0" in log for log in unit.logs)


def test_hugepages_that_cannot_be_read_count_as_held(machine: Machine, unit: Unit):
    machine.daemon.memory_error = "Permission denied"
    unit.hook("remove")
    assert machine.done() == []


def test_a_daemon_that_does_not_answer_counts_as_claims(machine: Machine, unit: Unit):
    machine.daemon_dead = True
    machine.cured_by_restart = False
    unit.hook("remove")
    assert machine.done() == ["restart epa-orchestrator.daemon"]
    assert any("if nobody does: snap remove epa-orchestrator" in log for log in unit.logs)


@pytest.mark.parametrize("held", [True, False])
def test_a_daemon_that_is_stopped_is_started_before_it_is_asked(
    held: bool, machine: Machine, unit: Unit
):
    machine.snap.active = False
    if held:
        machine.daemon.held["nova"] = Held(frozenset({2}))
    unit.hook("remove")
    started = "start epa-orchestrator.daemon"
    assert machine.done() == ([started] if held else [started, "remove epa-orchestrator"])
    if held:
        assert machine.snap.active


def test_a_daemon_that_others_need_is_left_running_and_held(machine: Machine, unit: Unit):
    machine.snap.active = False
    machine.snap.hold = None
    (machine.tenants / "LCK..epa-orchestrator--rev8__ceph-osd_3").touch()
    unit.hook("remove")
    assert machine.done() == ["start epa-orchestrator.daemon", "hold epa-orchestrator"]


def test_another_charm_that_needs_the_snap_keeps_it(machine: Machine, unit: Unit):
    other = machine.tenants / "LCK..epa-orchestrator--rev8__ceph-osd_3"
    other.touch()
    unit.hook("remove")
    assert machine.done() == []
    assert machine.references == [other.name]
    assert "the snap stays: ceph-osd_3 need it" in unit.logs


def test_references_to_other_snaps_are_nobodys_business(machine: Machine, unit: Unit):
    (machine.tenants / "LCK..node-exporter--rev8__other_3").touch()
    unit.hook("remove")
    assert machine.done() == ["remove epa-orchestrator"]
    assert machine.references == ["LCK..node-exporter--rev8__other_3"]


def test_without_the_snap_there_is_nothing_to_do(machine: Machine, unit: Unit):
    del machine.snaps[NAME]
    unit.hook("remove")
    assert machine.done() == []


@pytest.mark.parametrize(
    "error",
    [
        snaplib.ConnectionError("gone"),
        snaplib.SocketNotFoundError("none"),
        snaplib.TimeoutError("slow"),
        snaplib.BadResponseError("odd"),
    ],
)
def test_a_snapd_that_fails_does_not_wedge_the_unit(
    error: snaplib.Error, machine: Machine, unit: Unit
):
    machine.snapd_error = error
    unit.hook("remove")
    assert any("finish by hand: snap remove epa-orchestrator" in log for log in unit.logs)


def test_a_removal_that_snapd_refuses_does_not_wedge_the_unit(machine: Machine, unit: Unit):
    machine.failures["remove"] = api_error("busy", "snap-change-conflict")
    unit.hook("remove")
    assert any("finish by hand: snap remove epa-orchestrator" in log for log in unit.logs)


def test_even_a_bug_does_not_wedge_the_unit(
    machine: Machine, unit: Unit, monkeypatch: pytest.MonkeyPatch
):
    def bug(unit: str) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(removal, "leave", bug)
    unit.hook("remove")
    assert any("finish by hand" in log for log in unit.logs)


@pytest.mark.parametrize("config", [{"cpu-pool": "bad"}, {"snap-channel": "1/2"}])
def test_a_bad_option_keeps_nobody_from_leaving(
    config: dict[str, str], machine: Machine, unit: Unit
):
    unit.config |= config
    unit.hook("remove")
    assert machine.done() == ["remove epa-orchestrator"]
