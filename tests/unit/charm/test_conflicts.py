# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A busy snapd: what other charms and snapd itself are doing is waited for, within bounds."""

import ops
import pytest

import changes
import snapd
from tests.unit.charm import unit as units
from tests.unit.charm.machine import NAME, Machine, api_error
from tests.unit.charm.unit import Unit

IDLE = ops.ActiveStatus("0/12 CPUs held, 1G pages 0/16")
BUSY = 'snap "epa-orchestrator" has "connect-snap" change in progress'
SEEDING = "too early for operation, device not yet seeded or device model not acknowledged"
ERRORS = [
    api_error(BUSY, "snap-change-conflict"),
    snapd.CommandFailed(BUSY),
    snapd.CommandFailed("snapd has changes in progress"),
    snapd.CommandFailed(SEEDING),
]


@pytest.fixture
def finished(machine: Machine, unit: Unit) -> Machine:
    unit.hook("install")
    machine.done()
    return machine


def passing(machine: Machine, words: str, seconds: float) -> None:
    """A conflict that ends after so many seconds."""
    end = machine.now + seconds

    def fail() -> Exception | None:
        return api_error(BUSY, "snap-change-conflict") if machine.now < end else None

    machine.troubles[words] = fail


@pytest.mark.parametrize("hook", units.HOOKS)
@pytest.mark.parametrize("error", ERRORS)
def test_an_install_that_meets_a_busy_snapd_waits_and_heals(
    error: Exception, hook: str, machine: Machine, unit: Unit
):
    machine.failures["install"] = error
    begun = machine.now
    assert unit.hook(hook) == ops.WaitingStatus(f"snapd is busy: {error}")
    assert changes.PATIENCE_SECONDS - 10 < machine.now - begun <= changes.PATIENCE_SECONDS
    machine.failures.clear()
    assert unit.hook() == IDLE


def test_an_install_that_goes_on_for_long_is_waited_for(machine: Machine, unit: Unit):
    machine.slow = "install"
    assert unit.hook("install") == ops.WaitingStatus(
        "snapd is busy: snap install takes more than 480 s"
    )
    machine.slow = ""
    assert unit.hook() == IDLE


@pytest.mark.parametrize("words", ["install", "hold", "connect", "restart"])
def test_a_passing_conflict_is_over_within_the_hook(words: str, machine: Machine, unit: Unit):
    passing(machine, words, 60)
    assert unit.hook("install") == IDLE
    assert machine.snap.hold


def test_the_restart_for_a_plug_is_not_lost_to_a_passing_conflict(finished: Machine, unit: Unit):
    finished.connections.remove((NAME, "process-control", "snapd", "process-control"))
    passing(finished, "restart", 60)
    assert unit.hook() == IDLE
    made = finished.done()
    assert made[0] == "connect epa-orchestrator:process-control"
    assert set(made[1:]) == {"restart epa-orchestrator.daemon"}


def test_the_trigger_of_a_client_is_not_lost_to_a_passing_conflict(finished: Machine, unit: Unit):
    finished.add_client("openstack-hypervisor")
    passing(finished, "set openstack-hypervisor", 60)
    assert unit.hook() == IDLE
    assert "configure-trigger" in finished.snaps["openstack-hypervisor"].options


def test_a_client_whose_hook_goes_on_for_long_is_left_to_itself(finished: Machine, unit: Unit):
    finished.add_client("openstack-hypervisor")
    finished.slow = "set openstack-hypervisor"
    assert unit.hook() == IDLE
    assert any("takes more than 300 s; once it is mended" in log for log in unit.logs)


def test_a_removal_outlasts_a_passing_conflict(finished: Machine, unit: Unit):
    passing(finished, "remove", 60)
    unit.hook("remove")
    assert NAME not in finished.snaps
    assert finished.references == []


def test_a_removal_that_snapd_never_lets_in_says_how_to_finish(finished: Machine, unit: Unit):
    finished.failures["remove"] = api_error(BUSY, "snap-change-conflict")
    unit.hook("remove")
    assert NAME in finished.snaps
    assert any(
        log.endswith("if nobody holds anything, finish by hand: snap remove epa-orchestrator")
        for log in unit.logs
    )


def test_an_option_that_meets_a_busy_snapd_is_not_refused(finished: Machine, unit: Unit):
    finished.failures["set epa"] = api_error(BUSY, "snap-change-conflict")
    unit.config["cpu-pool"] = "0-1"
    assert unit.hook() == ops.WaitingStatus(f"snapd is busy: {BUSY}")
    finished.failures.clear()
    assert unit.hook().message.startswith("0/12 CPUs held, general pool 0/2")
