# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""How hard each event tries for another snap, and that the installed one is looked after."""

import ops
import pytest

import snapd
from tests.unit.charm import unit as units
from tests.unit.charm.fake_daemon import Held
from tests.unit.charm.machine import SNAP_FILE, Machine, api_error
from tests.unit.charm.unit import Unit

IDLE = ops.ActiveStatus("0/12 CPUs held, 1G pages 0/16")
UNDONE = """cannot perform the following tasks:
- Run post-refresh hook (run hook "post-refresh": this revision cannot take over: newer schema)"""
REASON = "this revision cannot take over: newer schema"


@pytest.fixture
def finished(machine: Machine, unit: Unit) -> Machine:
    unit.hook("install")
    machine.done()
    return machine


@pytest.fixture
def undone(finished: Machine, unit: Unit) -> Machine:
    """A bundle that snapd has undone, in the hook after a charm's refresh."""
    finished.bundle.write_bytes(SNAP_FILE + b"older")
    finished.failures["install"] = snapd.CommandFailed(UNDONE)
    assert unit.hook("upgrade_charm") == ops.BlockedStatus(
        f"cannot install bundled snap: {REASON}"
    )
    assert finished.done() == ["install --dangerous epa-orchestrator.snap"]
    return finished


def test_a_bundle_that_snapd_undid_is_not_tried_by_every_update_status(
    undone: Machine, unit: Unit
):
    for _ in range(3):
        unit.hook("update_status")
        assert unit.status == ops.BlockedStatus(f"cannot install bundled snap: {REASON}")
        assert undone.done() == []
        # The status from before, and nothing in between: no flapping.
        assert unit.history in ([], [unit.status])


def test_with_a_bundle_that_snapd_undid_the_installed_revision_is_looked_after(
    undone: Machine, unit: Unit
):
    undone.snap.active = False
    undone.add_client("openstack-hypervisor")
    unit.config["cpu-pool"] = "0-1"
    unit.hook()
    made = undone.done()
    assert made[0] == "start epa-orchestrator.daemon"
    assert any(change.startswith("set epa-orchestrator") for change in made)
    assert "connect openstack-hypervisor:epa-info epa-orchestrator:epa-info" in made
    assert undone.references == ["LCK..epa-orchestrator--revx1__epa-orchestrator_0"]
    assert unit.status == ops.BlockedStatus(f"cannot install bundled snap: {REASON}")


def test_a_bundle_that_snapd_undid_is_tried_again_by_the_next_charm(undone: Machine, unit: Unit):
    undone.failures.clear()
    assert unit.hook("upgrade_charm") == IDLE
    assert undone.done() == ["install --dangerous epa-orchestrator.snap"]


def test_what_became_of_a_bundle_says_nothing_of_a_channel(undone: Machine, unit: Unit):
    unit.config["snap-channel"] = "latest/edge"
    undone.failures["refresh"] = api_error("lookup", "dns-failure")
    text = "the snap store cannot be reached (snap-channel 'latest/edge')"
    assert unit.hook("config_changed") == ops.WaitingStatus(text)
    undone.done()
    assert unit.hook() == ops.WaitingStatus(text)
    assert undone.done() == ["refresh epa-orchestrator latest/edge --amend"]
    assert all(status.name != "maintenance" for status in unit.history)


def test_a_revision_of_the_store_that_snapd_undid_is_not_tried_again(
    finished: Machine, unit: Unit
):
    finished.add_installed(revision="8", channel="2024.1/stable")
    finished.failures["refresh"] = api_error(UNDONE)
    unit.config["snap-channel"] = "2024.1/edge"
    text = f"snap-channel '2024.1/edge': {REASON}"
    assert unit.hook("config_changed") == ops.BlockedStatus(text)
    finished.done()
    assert unit.hook() == ops.BlockedStatus(text)
    assert finished.done() == []


def test_a_download_that_the_network_broke_is_tried_again(finished: Machine, unit: Unit):
    finished.add_installed(revision="8", channel="2024.1/stable")
    broken = 'cannot perform the following tasks:\n- Download (Get "https://x": timeout)'
    finished.failures["refresh"] = api_error(broken)
    unit.config["snap-channel"] = "2024.1/edge"
    unit.hook("config_changed")
    finished.done()
    assert unit.hook().name == "waiting"
    assert finished.done() == ["refresh epa-orchestrator 2024.1/edge"]


@pytest.mark.parametrize("hook", units.HOOKS)
def test_a_bad_file_is_named_without_any_maintenance(hook: str, finished: Machine, unit: Unit):
    finished.resource.write_bytes(b"a text")
    blocked = ops.BlockedStatus("resource epa-orchestrator-snap is not a snap")
    finished.daemon.held["nova"] = Held(frozenset({2}))
    assert unit.hook(hook) == blocked
    assert all(status.name != "maintenance" for status in unit.history)
    assert finished.done() == []


def test_a_base_that_only_the_store_has_is_named(machine: Machine, unit: Unit):
    away = 'Post "https://api.snapcraft.io/v2/snaps/refresh": dial tcp: no such host'
    machine.failures["install"] = snapd.CommandFailed(
        "cannot perform the following tasks:\n- Ensure prerequisites for "
        f'"epa-orchestrator" are available (cannot install snap base "core24": {away})'
    )
    assert unit.hook("install") == ops.WaitingStatus(
        "the snap store cannot be reached (cannot install bundled snap: it needs the base core24)"
    )
    machine.failures.clear()
    assert unit.hook() == IDLE


@pytest.mark.parametrize("hook", units.HOOKS)
def test_juju_that_cannot_bring_the_resource_swaps_no_snap(
    hook: str, machine: Machine, unit: Unit, monkeypatch: pytest.MonkeyPatch
):
    machine.resource.write_bytes(SNAP_FILE + b"special")
    unit.hook("install")
    machine.done()

    def fetch(self: object, name: str) -> None:
        raise ops.ModelError("ERROR could not download resource: connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(ops.Resources, "fetch", fetch)
        assert unit.hook(hook) == ops.WaitingStatus(
            "waiting for Juju to bring the resource epa-orchestrator-snap"
        )
    assert machine.done() == []
    assert unit.hook(hook) == IDLE
    assert machine.done() == []
