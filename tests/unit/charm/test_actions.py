# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Actions: results, failures, and parameters that make no sense."""

import json
import re
from typing import Any

import ops
import pytest
from ops import testing

import models
from tests.unit.charm.fake_daemon import Held
from tests.unit.charm.machine import NAME, SNAP_FILE, Machine
from tests.unit.charm.unit import Unit

READS = (
    *("list-allocations", "list-hugepages", "show-topology", "show-ovs-affinity"),
    *("health-check", "history"),
)
AS_IT_WAS = ops.MaintenanceStatus("as it was")


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
    unit.status = AS_IT_WAS


def failure(unit: Unit, name: str, **parameters: Any) -> str:
    with pytest.raises(testing.ActionFailed) as caught:
        unit.action(name, **parameters)
    return caught.value.message


def test_list_allocations_is_a_table_of_both_pools(unit: Unit):
    assert unit.action("list-allocations") == {
        "allocations": (
            "SERVICE     POOL      CPUS  COUNT  POLICY          CLAIM\n"
            "nova        isolated  2-4   3      legacy          count\n"
            "ceph-osd.0  general   0     1      non-preemptive  NUMA"
        ),
        "summary": "3/12 CPUs held by 1 service, general pool 1/2, 1G pages 2/16",
    }


def test_list_allocations_as_json(unit: Unit):
    results = unit.action("list-allocations", format="json", service_name="nova")
    assert json.loads(results["allocations"]) == [
        {
            "service": "nova",
            "pool": "isolated",
            "cpus": "2-4",
            "count": 3,
            "policy": "legacy",
            "numa": False,
        }
    ]


def test_list_allocations_of_nobody(machine: Machine, unit: Unit):
    machine.daemon.held.clear()
    assert unit.action("list-allocations")["allocations"] == "nobody holds CPUs"


def test_list_allocations_of_a_service_that_holds_nothing_fails(unit: Unit):
    text = failure(unit, "list-allocations", service_name="nobody")
    assert text == "service nobody holds no CPUs"


def test_list_hugepages_is_a_table(unit: Unit):
    assert unit.action("list-hugepages") == {
        "hugepages": "NODE  SIZE  TOTAL  FREE  HELD BY\n0     1G    16     16    dpdk 2"
    }


def test_list_hugepages_of_a_host_without(machine: Machine, unit: Unit):
    machine.daemon.pages.clear()
    machine.daemon.page_records.clear()
    assert unit.action("list-hugepages") == {"hugepages": "no hugepages on this host"}


def test_list_hugepages_that_cannot_be_read_fails(machine: Machine, unit: Unit):
    machine.daemon.memory_error = "Permission denied"
    assert failure(unit, "list-hugepages") == "Permission denied"


@pytest.mark.parametrize(
    ("parameters", "asked"),
    [
        ({}, "--format table"),
        ({"format": "json"}, "--format json"),
        (
            {"service_name": "-x", "since": " 2h "},
            "--format table --service=-x --since=2h",
        ),
        ({"since": "2026-01-31T12:00"}, "--format table --since=2026-01-31T12:00"),
    ],
)
def test_history_is_what_the_daemons_own_command_prints(
    parameters: dict[str, Any], asked: str, unit: Unit
):
    assert unit.action("history", **parameters) == {"history": f"history --last 200 {asked}"}


def test_show_topology_is_the_daemons_own_map(unit: Unit):
    assert unit.action("show-topology") == {"topology": "the map"}


def test_show_ovs_affinity_is_the_daemons_own_table(unit: Unit):
    assert unit.action("show-ovs-affinity") == {"affinity": "the threads"}


def test_health_check_of_a_healthy_machine(unit: Unit):
    assert unit.action("health-check") == {
        "healthy": "yes",
        "daemon-version": "0.1.0",
        "uptime-seconds": "60",
        "allocation-state": "3/12 CPUs held by 1 service, general pool 1/2, 1G pages 2/16",
        "snap-revision": "x1",
        "snap-held": "yes",
    }


def test_health_check_fails_with_what_is_wrong(machine: Machine, unit: Unit):
    machine.daemon.problems = ["one thing", "another"]
    assert failure(unit, "health-check") == "one thing; another"


@pytest.mark.parametrize("name", READS)
def test_reading_changes_neither_the_machine_nor_the_status(
    name: str, machine: Machine, unit: Unit
):
    unit.action(name)
    assert machine.done() == []
    assert machine.daemon.changes == []
    assert unit.status == AS_IT_WAS


@pytest.mark.parametrize(
    ("parameters", "change", "results"),
    [
        ({"cores": 2}, "allocate dpdk isolated legacy 5-6", {"cpus": "5-6", "free-cpus": "7"}),
        ({"percent": 25}, "allocate dpdk isolated legacy 5-7", {"cpus": "5-7", "free-cpus": "6"}),
        (
            {"cores": 1, "numa_node": 1, "preemption_policy": "non-preemptive"},
            "allocate dpdk isolated non-preemptive 5",
            {"cpus": "5", "free-cpus": "8"},
        ),
        (
            {"cores": 1, "pool": "general"},
            "allocate dpdk general legacy 1",
            {"cpus": "1", "free-cpus": "0"},
        ),
    ],
)
def test_allocate_cores_holds_cpus_and_updates_the_status(
    parameters: dict[str, Any], change: str, results: dict[str, str], machine: Machine, unit: Unit
):
    assert unit.action("allocate-cores", service_name="dpdk", **parameters) == results
    assert machine.daemon.changes == [change]
    assert unit.status.name == "active"


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"cores": 99}, "Insufficient CPUs available. Requested: 99, Available: 9"),
        ({"cores": 1, "numa_node": 7}, "NUMA node 7 does not exist"),
    ],
)
def test_allocate_cores_fails_with_the_daemons_sentence(
    parameters: dict[str, Any], text: str, machine: Machine, unit: Unit
):
    assert failure(unit, "allocate-cores", service_name="dpdk", **parameters) == text
    assert machine.daemon.changes == []


def test_release_gives_the_cpus_back(machine: Machine, unit: Unit):
    results = unit.action("release", service_name="nova")
    assert results == {"cpus": "", "free-cpus": "12"}
    assert machine.daemon.changes == ["release nova isolated"]
    assert unit.status == ops.ActiveStatus("0/12 CPUs held, general pool 1/2, 1G pages 2/16")


def test_release_in_one_node_and_in_the_general_pool(machine: Machine, unit: Unit):
    unit.action("release", service_name="nova", numa_node=0)
    unit.action("release", service_name="ceph-osd.0", pool="general")
    assert machine.daemon.changes == ["release nova node 0", "release ceph-osd.0 general"]


def test_release_in_a_node_where_the_service_holds_nothing_fails(machine: Machine, unit: Unit):
    text = failure(unit, "release", service_name="nova", numa_node=1)
    assert text == "service nova holds no CPUs of pool isolated in NUMA node 1"
    assert "nova" in machine.daemon.held


def test_what_is_held_of_a_pool_that_is_no_more_is_listed(machine: Machine, unit: Unit):
    machine.daemon.general = None
    table = unit.action("list-allocations")["allocations"]
    assert table.splitlines()[2].split() == ["ceph-osd.0", "general", "0", "1", "-", "count"]
    # The daemon wants the pool back first.
    unit.machine.daemon.refusals["allocate_cores"] = "CPU pool general is not configured"
    text = failure(unit, "release", service_name="ceph-osd.0", pool="general")
    assert text == "CPU pool general is not configured"


@pytest.mark.parametrize("name", ["list-allocations", "list-hugepages", "health-check"])
def test_a_daemon_that_refuses_fails_the_action_with_its_sentence(
    name: str, machine: Machine, unit: Unit
):
    machine.daemon.refusals["list_allocations"] = "Allocation state is uncertain"
    assert failure(unit, name) == "the daemon refuses: Allocation state is uncertain"
    assert machine.done() == []


@pytest.mark.parametrize("name", ["allocate-cores", "release", "restart-daemon"])
def test_no_other_action_brings_another_snap(name: str, machine: Machine, unit: Unit):
    machine.bundle.write_bytes(SNAP_FILE + b"bundle 2")
    parameters: dict[str, Any] = {
        "allocate-cores": {"service_name": "a", "cores": 1},
        "release": {"service_name": "nova"},
    }.get(name, {})
    unit.action(name, **parameters)
    assert not [change for change in machine.done() if change.startswith("install")]
    assert unit.status == ops.WaitingStatus("bundled snap is not installed yet")


def test_a_daemon_with_pools_and_without_a_health_report_can_be_given_cpus(
    machine: Machine, unit: Unit
):
    machine.daemon.features = ["non-preemptive-allocations", "cpu-pools"]
    parameters = {"service_name": "a", "cores": 1, "pool": "general"}
    assert unit.action("allocate-cores", **parameters) == {"cpus": "1", "free-cpus": "0"}
    for name in ("health-check", "show-topology", "show-ovs-affinity"):
        assert failure(unit, name) == "needs a newer daemon"


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"service_name": "nobody"}, "service nobody holds no CPUs of pool isolated"),
        ({"service_name": "ceph-osd.0"}, "service ceph-osd.0 holds no CPUs of pool isolated"),
        (
            {"service_name": "nova", "pool": "general"},
            "service nova holds no CPUs of pool general",
        ),
        ({"service_name": "nova", "numa_node": 9}, "NUMA node 9 does not exist"),
    ],
)
def test_release_of_what_is_not_held_fails(
    parameters: dict[str, Any], text: str, machine: Machine, unit: Unit
):
    assert failure(unit, "release", **parameters) == text
    assert machine.daemon.changes == []


def test_todays_daemon_lists_and_releases(machine: Machine, unit: Unit):
    machine.daemon.old = True
    del machine.daemon.held["ceph-osd.0"]
    machine.daemon.general = None
    results = unit.action("list-allocations")
    assert results["allocations"].splitlines()[1] == (
        "nova     isolated  2-4   3      legacy  count"
    )
    assert "dpdk 2" in unit.action("list-hugepages")["hugepages"]
    assert unit.action("release", service_name="nova") == {"cpus": "", "free-cpus": "12"}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("show-topology", {}),
        ("history", {}),
        ("show-ovs-affinity", {}),
        ("health-check", {}),
        ("allocate-cores", {"service_name": "a", "cores": 1, "pool": "general"}),
        ("allocate-cores", {"service_name": "a", "cores": 1, "preemption_policy": "legacy"}),
    ],
)
def test_what_todays_daemon_cannot_do_fails_with_a_plain_word(
    name: str, parameters: dict[str, Any], machine: Machine, unit: Unit
):
    machine.daemon.old = True
    assert failure(unit, name, **parameters) == "needs a newer daemon"


@pytest.mark.parametrize("name", READS)
def test_reading_from_a_dead_daemon_fails_and_restarts_nothing(
    name: str, machine: Machine, unit: Unit
):
    machine.daemon_dead = True
    assert failure(unit, name) == "no daemon listens on epa.sock"
    assert machine.done() == []


@pytest.mark.parametrize("name", READS)
def test_reading_says_why_the_daemon_cannot_start(name: str, machine: Machine, unit: Unit):
    machine.daemon_dead = True
    machine.check_says = (
        '{"ok": false, "problems": [{"code": "settings", "text": "state is damaged"}]}'
    )
    assert failure(unit, name) == "daemon cannot start: state is damaged"


@pytest.mark.parametrize("name", [*READS, "restart-daemon"])
def test_without_the_snap_actions_say_so(name: str, machine: Machine, unit: Unit):
    del machine.snaps[NAME]
    assert failure(unit, name) == "the snap epa-orchestrator is not installed"


def test_restart_daemon_waits_for_the_answer(machine: Machine, unit: Unit):
    assert unit.action("restart-daemon") == {
        "result": "restarted",
        "allocation-state": "3/12 CPUs held by 1 service, general pool 1/2, 1G pages 2/16",
    }
    assert machine.done() == ["restart epa-orchestrator.daemon"]


def test_restart_daemon_that_does_not_come_back_fails(machine: Machine, unit: Unit):
    machine.daemon_dead, machine.cured_by_restart = True, False
    assert failure(unit, "restart-daemon") == "no daemon listens on epa.sock"
    assert unit.status.name == "blocked"


SERVICE = {"service_name": "a"}
BAD: list[tuple[type[Any], dict[str, Any], str]] = [
    (models.ListAllocationsParams, {"service_name": ""}, "service-name: String should have"),
    (models.ListAllocationsParams, {"service_name": 5}, "service-name: Input should be a valid"),
    (models.ListAllocationsParams, {"format": "xml"}, "format: Input should be 'table' or 'json'"),
    (models.HistoryParams, {"service_name": ""}, "service-name: String should have"),
    (models.HistoryParams, {"since": "yesterday"}, "since: 'yesterday' is neither a time such"),
    (models.HistoryParams, {"since": ""}, "since: String should have"),
    (models.HistoryParams, {"since": 5}, "since: Input should be a valid string"),
    (models.HistoryParams, {"format": "xml"}, "format: Input should be 'table' or 'json'"),
    (models.HistoryParams, {"last": 5}, "last: Extra inputs"),
    (models.AllocateCoresParams, {"cores": 1}, "service-name: Field required"),
    (models.AllocateCoresParams, SERVICE, "give either cores or percent"),
    (models.AllocateCoresParams, SERVICE | {"cores": 1, "percent": 1}, "give either cores or"),
    (models.AllocateCoresParams, SERVICE | {"percent": 1, "numa_node": 0}, "numa-node goes with"),
    (models.AllocateCoresParams, SERVICE | {"cores": 0}, "cores: Input should be greater than"),
    (models.AllocateCoresParams, SERVICE | {"cores": -1}, "cores: Input should be greater than"),
    (models.AllocateCoresParams, SERVICE | {"cores": "2"}, "cores: Input should be a valid int"),
    (models.AllocateCoresParams, SERVICE | {"cores": True}, "cores: Input should be a valid int"),
    (models.AllocateCoresParams, SERVICE | {"cores": 1.5}, "cores: Input should be a valid int"),
    (models.AllocateCoresParams, SERVICE | {"percent": 101}, "percent: Input should be less than"),
    (models.AllocateCoresParams, SERVICE | {"cores": 1, "numa_node": -1}, "numa-node: Input"),
    (models.AllocateCoresParams, SERVICE | {"cores": 1, "pool": "x"}, "pool: Input should be"),
    (
        models.AllocateCoresParams,
        SERVICE | {"cores": 1, "preemption_policy": "x"},
        "preemption-policy: Input should be",
    ),
    (models.AllocateCoresParams, {"service_name": "a\nb", "cores": 1}, "service-name: a service"),
    (models.AllocateCoresParams, {"service_name": "a" * 129, "cores": 1}, "service-name: String"),
    (models.ReleaseParams, {}, "service-name: Field required"),
    (models.ReleaseParams, {"service_name": "a", "numa_node": -1}, "numa-node: Input should be"),
    (models.ReleaseParams, {"service_name": "a", "pool": None}, "pool: Input should be"),
    (models.ReleaseParams, {"service_name": "a", "other": 1}, "other: Extra inputs"),
]


@pytest.mark.parametrize(("model", "parameters", "text"), BAD)
def test_bad_parameters_are_refused_in_one_line(
    model: type[Any], parameters: dict[str, Any], text: str
):
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        model(**parameters)
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


def test_a_bad_parameter_fails_the_action_and_nothing_is_done(machine: Machine, unit: Unit):
    text = failure(unit, "allocate-cores", service_name="a")
    assert text == "Error in action parameters: give either cores or percent"
    assert machine.done() == []
    assert machine.daemon.changes == []
