# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The status tells the truth: every event in every condition, exact texts, exact changes."""

import ops
import pytest
from charmlibs import snap as snaplib

import daemon
import status
from tests.unit.charm import unit as units
from tests.unit.charm.fake_daemon import FakeDaemon, Held
from tests.unit.charm.machine import NAME, OLD_PLUGS, Machine, api_error
from tests.unit.charm.unit import Unit

GIGABYTE = 1048576


@pytest.fixture
def finished(machine: Machine) -> Machine:
    machine.add_installed()
    machine.tenants.mkdir()
    (machine.tenants / "LCK..epa-orchestrator--revx1__epa-orchestrator_0").touch()
    return machine


@pytest.mark.parametrize("hook", units.HOOKS)
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("held", "records", "text"),
    [
        ({}, {}, "0/12 CPUs held, 1G pages 0/16"),
        (
            {"a": Held(frozenset({2}))},
            {("a", 0, GIGABYTE): 8},
            "1/12 CPUs held by 1 service, 1G pages 8/16",
        ),
        (
            {"a": Held(frozenset({2, 3})), "b": Held(frozenset({4, 5}))},
            {("a", 0, GIGABYTE): 4, ("c", 0, GIGABYTE): 4},
            "4/12 CPUs held by 2 services, 1G pages 8/16",
        ),
    ],
)
def test_active_shows_who_holds_how_much(
    held: dict[str, Held],
    records: dict[tuple[str, int, int], int],
    text: str,
    old: bool,
    hook: str,
    finished: Machine,
    unit: Unit,
):
    finished.daemon.old = old
    finished.daemon.held = held
    finished.daemon.page_records = records
    assert unit.hook(hook) == ops.ActiveStatus(text)
    assert finished.done() == []


@pytest.mark.parametrize(
    ("fake", "text"),
    [
        (FakeDaemon(isolated="", pages={}), "no isolated CPUs"),
        (FakeDaemon(isolated="", pages={(0, 2048): (0, 0)}), "no isolated CPUs"),
        (FakeDaemon(isolated="", pages={}, general="0-1"), "no isolated CPUs, general pool 0/2"),
        (
            FakeDaemon(general="0-1", held={"o": Held(frozenset({0}), "general")}, pages={}),
            "0/12 CPUs held, general pool 1/2",
        ),
        (
            FakeDaemon(
                isolated="2",
                pages={(0, 2048): (64, 64), (0, GIGABYTE): (2, 2), (1, GIGABYTE): (2, 2)},
            ),
            "0/1 CPUs held, 1G pages 0/4, 2M pages 0/64",
        ),
        (FakeDaemon(isolated="", pages={(0, 64): (5, 5)}), "no isolated CPUs, 64K pages 0/5"),
    ],
)
def test_every_kind_of_healthy_host_ends_in_active(
    fake: FakeDaemon, text: str, finished: Machine, unit: Unit
):
    finished.daemon = fake
    assert unit.hook() == ops.ActiveStatus(text)
    assert finished.done() == []


@pytest.mark.parametrize("hook", units.HOOKS)
def test_a_killed_daemon_is_restarted_once(hook: str, finished: Machine, unit: Unit):
    finished.daemon_dead = True
    assert unit.hook(hook).name == "active"
    assert finished.done() == ["restart epa-orchestrator.daemon"]


@pytest.mark.parametrize("hook", units.HOOKS)
def test_a_stopped_service_is_started_and_enabled(hook: str, finished: Machine, unit: Unit):
    finished.snap.active = False
    assert unit.hook(hook).name == "active"
    assert finished.done() == ["start epa-orchestrator.daemon"]


@pytest.mark.parametrize("hook", units.HOOKS)
@pytest.mark.parametrize("old", [False, True])
def test_a_daemon_that_stays_dead_blocks_after_one_restart(
    old: bool, hook: str, finished: Machine, unit: Unit
):
    finished.snap.old = old
    finished.daemon_dead, finished.cured_by_restart = True, False
    assert unit.hook(hook) == ops.BlockedStatus(
        "daemon does not answer after a restart: see snap logs epa-orchestrator"
    )
    assert finished.done() == ["restart epa-orchestrator.daemon"]


@pytest.mark.parametrize("hook", units.HOOKS)
def test_a_daemon_that_would_refuse_is_not_restarted_but_gives_its_reason(
    hook: str, finished: Machine, unit: Unit
):
    finished.daemon_dead = True
    finished.check_says = (
        '{"ok": false, "problems": [{"code": "cannot-start", "text": "state.json is damaged"}]}'
    )
    assert unit.hook(hook) == ops.BlockedStatus("daemon cannot start: state.json is damaged")
    assert finished.done() == []
    assert all(status.name != "maintenance" for status in unit.history)


@pytest.mark.parametrize("hook", units.HOOKS)
@pytest.mark.parametrize("gone", ["stopped", "silent"])
def test_a_pool_that_is_invalid_keeps_no_daemon_from_being_started(
    gone: str, hook: str, finished: Machine, unit: Unit
):
    """It starts, its general pool has no CPUs, and its health report says why."""
    text = "General cpu-pool overlaps isolated CPUs: 2"
    finished.check_says = (
        f'{{"ok": false, "problems": [{{"code": "invalid-cpu-pool", "text": "{text}"}}]}}'
    )
    finished.daemon.problems = [text]
    if gone == "stopped":
        finished.snap.active = False
    else:
        finished.daemon_dead = True
    assert unit.hook(hook) == ops.BlockedStatus(text)
    deed = "start" if gone == "stopped" else "restart"
    assert finished.done() == [f"{deed} epa-orchestrator.daemon"]


@pytest.mark.parametrize("hook", units.HOOKS)
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("action", ["list_allocations", "get_health"])
def test_a_daemon_that_refuses_blocks_with_its_sentence(
    action: str, old: bool, hook: str, finished: Machine, unit: Unit
):
    finished.daemon.old = old
    finished.daemon.refusals[action] = "Allocation state is uncertain"
    expected = ops.BlockedStatus("the daemon refuses: Allocation state is uncertain")
    if old and action == "get_health":  # It is not asked.
        expected = ops.ActiveStatus("0/12 CPUs held, 1G pages 0/16")
    assert unit.hook(hook) == expected
    assert finished.done() == []


def test_a_daemon_that_refuses_is_replaced_by_the_snap_that_is_asked_for(
    machine: Machine, unit: Unit
):
    machine.add_installed(revision="8", channel="2024.1/stable", old=True)
    machine.daemon.old = True
    machine.daemon.refusals["list_allocations"] = "Allocation state is uncertain"
    machine.deeds["install"] = machine.daemon.refusals.clear
    assert unit.hook("upgrade_charm").name == "active"
    assert machine.done()[0] == "install --dangerous epa-orchestrator.snap"


def test_a_daemon_with_pools_and_without_a_health_report_is_healthy(finished: Machine, unit: Unit):
    finished.daemon.features = ["non-preemptive-allocations", "cpu-pools"]
    finished.daemon.general = "0-1"
    finished.daemon.held["ceph-osd.0"] = Held(frozenset({0}), "general", "non-preemptive", True)
    text = "0/12 CPUs held, general pool 1/2, 1G pages 0/16"
    assert unit.hook() == ops.ActiveStatus(text)
    finished.daemon.general = None
    assert unit.hook().name == "active"


@pytest.mark.parametrize("hook", units.HOOKS)
def test_a_plug_that_cannot_be_connected_keeps_nothing_else_from_being_done(
    hook: str, finished: Machine, unit: Unit
):
    for plug in ("etc-openvswitch", "process-control"):
        finished.connections.remove((NAME, plug, "snapd", plug))
    finished.failures["connect epa-orchestrator:etc"] = api_error("no slot")
    finished.snap.active = False
    finished.add_client("openstack-hypervisor")
    assert unit.hook(hook) == ops.BlockedStatus(
        "cannot connect epa-orchestrator:etc-openvswitch: no slot"
    )
    assert finished.done()[:4] == [
        "connect epa-orchestrator:process-control",
        "connect epa-orchestrator:etc-openvswitch",
        "start epa-orchestrator.daemon",
        "connect openstack-hypervisor:epa-info epa-orchestrator:epa-info",
    ]


@pytest.mark.parametrize("said", ["", "Traceback", "[]", '{"problems": [{}]}'])
def test_a_check_that_says_nothing_useful_is_no_reason(said: str, finished: Machine, unit: Unit):
    finished.daemon_dead = True
    finished.check_says = said
    assert unit.hook().name == "active"
    assert finished.done() == ["restart epa-orchestrator.daemon"]


def test_a_daemon_whose_replies_make_no_sense_counts_as_dead(
    finished: Machine, unit: Unit, monkeypatch: pytest.MonkeyPatch
):
    def answer(*_: object) -> dict[str, str]:
        return {"version": "1.0"}

    monkeypatch.setattr(FakeDaemon, "answer", answer)
    assert unit.hook() == ops.BlockedStatus(
        "daemon does not answer after a restart: see snap logs epa-orchestrator"
    )


@pytest.mark.parametrize("hook", units.HOOKS)
def test_what_the_daemon_finds_wrong_is_never_active(hook: str, finished: Machine, unit: Unit):
    finished.daemon.problems = ["CPU 2 is held by a and b at once", "a holds 3, which are offline"]
    assert unit.hook(hook) == ops.BlockedStatus("CPU 2 is held by a and b at once (+1 more)")


@pytest.mark.parametrize("hook", units.HOOKS)
def test_hugepages_that_cannot_be_read_block(hook: str, finished: Machine, unit: Unit):
    finished.daemon.memory_error = "Failed to get memory information: Permission denied"
    assert unit.hook(hook) == ops.BlockedStatus(
        "hugepages cannot be read: Failed to get memory information: Permission denied"
    )


def test_todays_daemon_without_hugepages_is_no_fault(finished: Machine, unit: Unit):
    finished.daemon.old = True
    finished.daemon.memory_error = "NUMA is not there"
    assert unit.hook() == ops.ActiveStatus("0/12 CPUs held")


def test_a_plug_that_cannot_be_connected_blocks(finished: Machine, unit: Unit):
    finished.connections.remove((NAME, "hardware-observe", "snapd", "hardware-observe"))
    finished.failures["connect"] = api_error('snap "snapd" has no slot')
    assert unit.hook() == ops.BlockedStatus(
        'cannot connect epa-orchestrator:hardware-observe: snap "snapd" has no slot'
    )


@pytest.mark.parametrize(
    ("plug", "restarts"),
    [
        ("network-bind", True),
        ("hardware-observe", False),
        ("process-control", True),
        ("etc-openvswitch", False),
    ],
)
def test_a_lost_connection_comes_back_with_a_restart_only_where_seccomp_asks_for_it(
    plug: str, restarts: bool, finished: Machine, unit: Unit
):
    finished.connections.remove((NAME, plug, "snapd", plug))
    assert unit.hook().name == "active"
    restart = ["restart epa-orchestrator.daemon"] if restarts else []
    assert finished.done() == [f"connect epa-orchestrator:{plug}", *restart]


def test_plugs_that_a_revision_has_not_are_not_asked_for(machine: Machine, unit: Unit):
    machine.add_installed(plugs=dict(OLD_PLUGS))
    assert unit.hook().name == "active"
    assert machine.done() == []


def test_snapd_going_away_in_the_middle_is_waited_for(finished: Machine, unit: Unit):
    finished.daemon_dead = True
    finished.failures["restart"] = snaplib.ConnectionError("gone")
    assert unit.hook() == ops.WaitingStatus("waiting for snapd to answer")


def test_a_long_reason_is_cut_and_is_one_line():
    shown = status.status(status.Report(blocked=("many\n  words " * 50,)))
    assert shown.message.startswith("many words many words")
    assert shown.message.endswith("...")
    assert len(shown.message) == 160


def test_blocked_goes_before_waiting_and_waiting_before_active():
    holdings = daemon.Holdings(frozenset(), {"isolated": daemon.Pool(0, 0, 0)}, (), ())
    both = status.Report(("b",), ("w",), holdings)
    assert status.status(both) == ops.BlockedStatus("b")
    assert status.status(status.Report((), ("w",), holdings)) == ops.WaitingStatus("w")
    assert status.status(status.Report()) == ops.WaitingStatus("waiting for the daemon to answer")
