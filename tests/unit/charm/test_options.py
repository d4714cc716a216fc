# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The snap's options, the clients' plugs, and bad values of each."""

from typing import Any

import ops
import pytest
from charmlibs import snap as snaplib

import models
from tests.unit.charm import unit as units
from tests.unit.charm.fake_daemon import Held
from tests.unit.charm.machine import NAME, Machine, api_error
from tests.unit.charm.unit import Unit

IDLE = ops.ActiveStatus("0/12 CPUs held, 1G pages 0/16")
HYPERVISOR = "openstack-hypervisor"
HOOK_OUTPUT = """cannot perform the following tasks:
- Run configure hook of "epa-orchestrator" snap (run hook "configure":
-----
Invalid cpu-pool configuration: General cpu-pool overlaps isolated CPUs: 2
-----)"""


@pytest.fixture(autouse=True)
def finished(machine: Machine) -> None:
    machine.add_installed()


def test_given_options_are_set_together_and_once(machine: Machine, unit: Unit):
    unit.config |= {
        "cpu-pool": "0-1",
        "policy-small-system-percent": 50,
        "policy-large-system-threshold": 64,
        "policy-large-system-reserved": 0,
    }
    assert unit.hook("config_changed") == ops.ActiveStatus(
        "0/12 CPUs held, general pool 0/2, 1G pages 0/16"
    )
    assert machine.done() == [
        "set epa-orchestrator {'cpu-pool': '0-1', 'policy.small-system-percent': 50, "
        "'policy.large-system-threshold': 64, 'policy.large-system-reserved': 0}"
    ]
    unit.hook("config_changed")
    assert machine.done() == []


def test_only_what_differs_is_set(machine: Machine, unit: Unit):
    machine.snap.options = {"policy": {"small-system-percent": 50}}
    unit.config |= {"policy-small-system-percent": 50, "policy-large-system-reserved": 4}
    unit.hook()
    assert machine.done() == ["set epa-orchestrator {'policy.large-system-reserved': 4}"]


def test_empty_options_leave_foreign_values_alone(machine: Machine, unit: Unit):
    machine.snap.options = {"cpu-pool": "0-1", "policy": {"small-system-percent": 50}}
    unit.hook("config_changed")
    assert machine.done() == []


def test_an_emptied_option_is_not_unset(machine: Machine, unit: Unit):
    unit.config["cpu-pool"] = "0-1"
    unit.hook("config_changed")
    machine.done()
    unit.config["cpu-pool"] = ""
    unit.hook("config_changed")
    assert machine.done() == []
    assert machine.snap.options["cpu-pool"] == "0-1"


@pytest.mark.parametrize(
    ("option", "kept"),
    [("5", 5), ("2-3,4", "2-4"), (" 4, 2-3 ", "2-4"), ("isolated", None), ("isolated", "")],
)
def test_the_same_pool_in_other_words_is_no_difference(
    option: str, kept: Any, machine: Machine, unit: Unit
):
    machine.snap.options = {"cpu-pool": kept}
    unit.config["cpu-pool"] = option
    unit.hook()
    assert machine.done() == []


def test_a_foreign_pool_that_nobody_uses_is_replaced(machine: Machine, unit: Unit):
    machine.snap.options = {"cpu-pool": "0"}
    machine.daemon.general = "0"
    unit.config["cpu-pool"] = "0-1"
    assert unit.hook().name == "active"
    assert machine.done() == ["set epa-orchestrator {'cpu-pool': '0-1'}"]


@pytest.mark.parametrize("hook", units.HOOKS)
def test_a_foreign_pool_in_use_blocks_and_stays(hook: str, machine: Machine, unit: Unit):
    machine.snap.options = {"cpu-pool": "0-1"}
    machine.daemon.general = "0-1"
    machine.daemon.held["ceph-osd.0"] = Held(frozenset({0}), "general", "non-preemptive", True)
    unit.config["cpu-pool"] = "1"
    assert unit.hook(hook) == ops.BlockedStatus(
        "cpu-pool is 0-1 in the snap, not 1: release the general CPUs of ceph-osd.0 first"
    )
    assert machine.done() == []


def test_a_value_that_the_snap_refuses_blocks_with_its_reason_and_heals(
    machine: Machine, unit: Unit
):
    machine.failures["set"] = snaplib.ChangeError(HOOK_OUTPUT, kind="", value="1")
    unit.config["cpu-pool"] = "2"
    assert unit.hook() == ops.BlockedStatus(
        "cpu-pool refused: Invalid cpu-pool configuration: "
        "General cpu-pool overlaps isolated CPUs: 2"
    )
    machine.failures.clear()
    unit.config["cpu-pool"] = ""
    assert unit.hook() == IDLE


@pytest.mark.parametrize("features", [None, ["non-preemptive-allocations", "cpu-pools"]])
@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("cpu-pool", "0-1", "cpu-pool needs a newer daemon"),
        (
            "policy-small-system-percent",
            50,
            "policy-small-system-percent needs a newer daemon",
        ),
    ],
)
def test_an_older_daemon_cannot_be_given_what_it_does_not_know(
    option: str,
    value: Any,
    text: str,
    features: list[str] | None,
    machine: Machine,
    unit: Unit,
):
    machine.daemon.old = features is None
    machine.daemon.features = features or []
    unit.config[option] = value
    if option == "cpu-pool" and features:
        assert unit.hook().message.startswith("0/12 CPUs held, general pool 0/2")
        assert machine.done() == ["set epa-orchestrator {'cpu-pool': '0-1'}"]
    else:
        assert unit.hook() == ops.BlockedStatus(text)
        assert machine.done() == []


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("snap-channel", "a b", "snap-channel: 'a b' is not a channel such as 2024.1/stable"),
        ("snap-channel", "1/2", "snap-channel: '1/2' is not a channel such as 2024.1/stable"),
        (
            "snap-channel",
            "1/edge/x/y",
            "snap-channel: '1/edge/x/y' is not a channel such as 2024.1/stable",
        ),
        ("snap-channel", "/", "snap-channel: '/' is not a channel such as 2024.1/stable"),
        (
            "snap-channel",
            "--amend",
            "snap-channel: '--amend' is not a channel such as 2024.1/stable",
        ),
        ("cpu-pool", "all", "cpu-pool: 'all' is not a CPU list such as 2-7,12"),
        ("cpu-pool", "3-2", "cpu-pool: '3-2' is not a CPU list: '3-2'"),
        ("cpu-pool", "1,70000", "cpu-pool: '1,70000' is not a CPU list: '70000'"),
        ("cpu-pool", "1,,2", "cpu-pool: '1,,2' is not a CPU list such as 2-7,12"),
        ("cpu-pool", "-1", "cpu-pool: '-1' is not a CPU list such as 2-7,12"),
        ("cpu-pool", "0-6:2", "cpu-pool: '0-6:2' is not a CPU list such as 2-7,12"),
        ("epa-info-plugs", "lxd", "epa-info-plugs: 'lxd' is not of the form snap:plug"),
        ("epa-info-plugs", "a:b:c", "epa-info-plugs: 'a:b:c' is not of the form snap:plug"),
        (
            "policy-small-system-percent",
            0,
            "policy-small-system-percent: Input should be greater than or equal to 1",
        ),
        (
            "policy-small-system-percent",
            101,
            "policy-small-system-percent: Input should be less than or equal to 100",
        ),
        (
            "policy-large-system-threshold",
            65537,
            "policy-large-system-threshold: Input should be less than or equal to 65536",
        ),
        (
            "policy-large-system-reserved",
            -1,
            "policy-large-system-reserved: Input should be greater than or equal to 0",
        ),
    ],
)
def test_a_bad_option_blocks_in_one_line_and_nothing_is_done(
    option: str, value: Any, text: str, machine: Machine, unit: Unit
):
    del machine.snaps[NAME]
    unit.config[option] = value
    assert unit.hook("config_changed") == ops.BlockedStatus(text)
    assert machine.done() == []
    unit.config.clear()
    assert unit.hook("config_changed") == IDLE


@pytest.mark.parametrize("hook", units.HOOKS)
def test_a_bad_option_blocks_in_every_hook(hook: str, machine: Machine, unit: Unit):
    unit.config["cpu-pool"] = "all"
    text = "cpu-pool: 'all' is not a CPU list such as 2-7,12"
    assert unit.hook(hook) == ops.BlockedStatus(text)
    assert machine.done() == []


@pytest.mark.parametrize("name", sorted(models.CharmConfig.model_fields))
def test_an_option_of_the_wrong_type_is_refused_in_one_line(name: str):
    make: Any = models.CharmConfig
    with pytest.raises(ValueError, match=rf"^{name.replace('_', '-')}: Input should be") as caught:
        make(**{name: 1.5})
    assert "\n" not in str(caught.value)


def test_a_client_is_connected_and_triggered_once(machine: Machine, unit: Unit):
    machine.add_client(HYPERVISOR)
    assert unit.hook() == IDLE
    connect, trigger = machine.done()
    assert connect == "connect openstack-hypervisor:epa-info epa-orchestrator:epa-info"
    assert trigger.startswith("set openstack-hypervisor {'configure-trigger': ")
    unit.hook()
    assert machine.done() == []


def test_another_client_that_appears_later_is_connected_and_not_triggered(
    machine: Machine, unit: Unit
):
    unit.config["epa-info-plugs"] = "openstack-hypervisor:epa-info, microceph:epa microceph:epa"
    assert unit.hook() == IDLE
    assert machine.done() == []
    machine.add_client("microceph", "epa")
    assert unit.hook() == IDLE
    assert machine.done() == ["connect microceph:epa epa-orchestrator:epa-info"]


@pytest.mark.parametrize("allowed", ["", "microceph:epa"])
def test_a_client_that_is_not_allowed_is_not_connected(allowed: str, machine: Machine, unit: Unit):
    machine.add_client(HYPERVISOR)
    unit.config["epa-info-plugs"] = allowed
    assert unit.hook() == IDLE
    assert machine.done() == []


@pytest.mark.parametrize("hook", units.HOOKS)
@pytest.mark.parametrize(
    ("plug", "interface", "text"),
    [
        ("other", "content", "epa-info-plugs: microceph has no plug epa-info"),
        ("epa-info", "home", "epa-info-plugs: microceph:epa-info is no content plug"),
    ],
)
def test_a_plug_that_does_not_fit_blocks(
    plug: str, interface: str, text: str, hook: str, machine: Machine, unit: Unit
):
    machine.add_client("microceph", plug, interface)
    unit.config["epa-info-plugs"] = "microceph:epa-info"
    assert unit.hook(hook) == ops.BlockedStatus(text)
    assert machine.done() == []


@pytest.mark.parametrize("hook", units.HOOKS)
@pytest.mark.parametrize(("plug", "interface"), [("other", "content"), ("epa-info", "home")])
def test_a_client_of_the_default_that_does_not_fit_is_no_fault(
    plug: str, interface: str, hook: str, machine: Machine, unit: Unit
):
    machine.add_client(HYPERVISOR, plug, interface)
    assert unit.hook(hook) == IDLE
    assert machine.done() == []
    assert any(log.startswith("not connected: openstack-hypervisor") for log in unit.logs)


def test_one_client_that_cannot_be_connected_keeps_no_other_away(machine: Machine, unit: Unit):
    machine.add_client(HYPERVISOR)
    machine.add_client("microceph")
    unit.config["epa-info-plugs"] = "openstack-hypervisor:epa-info microceph:epa-info"
    machine.failures["connect openstack"] = api_error("busy", "snap-change-conflict")
    assert unit.hook() == ops.WaitingStatus("snapd is busy: busy")
    assert machine.done()[-1] == "connect microceph:epa-info epa-orchestrator:epa-info"


def test_the_status_shows_what_a_new_client_has_taken(machine: Machine, unit: Unit):
    machine.add_client(HYPERVISOR)

    def take() -> None:
        machine.daemon.held[HYPERVISOR] = Held(frozenset({2}))

    machine.deeds["set openstack-hypervisor"] = take
    assert unit.hook().message.startswith("1/12 CPUs held by 1 service")


def test_a_connection_that_snapd_refuses_blocks(machine: Machine, unit: Unit):
    machine.add_client(HYPERVISOR)
    machine.failures["connect"] = api_error("content attributes do not match")
    assert unit.hook() == ops.BlockedStatus(
        "cannot connect openstack-hypervisor:epa-info: content attributes do not match"
    )


def test_a_failing_hook_of_a_client_is_its_own_and_the_log_says_how_to_go_on(
    machine: Machine, unit: Unit
):
    machine.add_client(HYPERVISOR)
    machine.failures["set"] = snaplib.ChangeError("boom", kind="", value="")
    assert unit.hook() == IDLE
    assert any(
        log.endswith("try again: snap set openstack-hypervisor configure-trigger=$(date +%s)")
        for log in unit.logs
    )


def test_a_bad_option_keeps_no_client_from_being_connected(machine: Machine, unit: Unit):
    machine.add_client("microceph", "epa")
    machine.failures["set"] = snaplib.ChangeError(HOOK_OUTPUT, kind="", value="1")
    unit.config |= {"cpu-pool": "2", "epa-info-plugs": "microceph:epa"}
    assert unit.hook().name == "blocked"
    assert "connect microceph:epa epa-orchestrator:epa-info" in machine.done()


def test_clients_wait_until_the_daemon_answers(machine: Machine, unit: Unit):
    machine.add_client(HYPERVISOR)
    machine.daemon_dead, machine.cured_by_restart = True, False
    unit.hook()
    assert machine.done() == ["restart epa-orchestrator.daemon"]
