# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Every row of the protocol's tables, byte for byte (contract, parts 2 and 3)."""

import json

from tests import host_trees
from tests.functional.daemons import Daemon, MakeDaemon


def exact(daemon: Daemon, request: str, reply: str) -> None:
    assert daemon.raw(request.encode()).decode() == reply


def test_allocate_cores(daemon: Daemon):
    exact(
        daemon,
        '{"version":"1.0","action":"allocate_cores","service_name":"a","num_of_cores":4}',
        '{"pool":"isolated","version":"1.0","preemption_policy":"legacy","service_name":"a",'
        '"num_of_cores":4,"cores_allocated":4,"allocated_cores":"2-5","shared_cpus":"6-7,10-15",'
        '"total_available_cpus":12,"remaining_available_cpus":8}',
    )
    exact(
        daemon,
        '{"action":"allocate_cores","service_name":"a","num_of_cores":-1}',
        '{"pool":"isolated","version":"1.0","preemption_policy":null,"service_name":"a",'
        '"num_of_cores":0,"cores_allocated":0,"allocated_cores":"","shared_cpus":"2-7,10-15",'
        '"total_available_cpus":12,"remaining_available_cpus":12}',
    )


def test_allocate_cores_without_a_number_is_the_heuristic(daemon: Daemon):
    reply = daemon.ask("allocate_cores", service_name="a")
    assert (reply["num_of_cores"], reply["cores_allocated"]) == (0, 9)


def test_allocate_cores_percent(daemon: Daemon):
    exact(
        daemon,
        '{"action":"allocate_cores_percent","service_name":"a","percent":"50",'
        '"preemption_policy":"non-preemptive"}',
        '{"pool":"isolated","version":"1.0","preemption_policy":"non-preemptive",'
        '"service_name":"a","cores_allocated_count":6,"allocated_cores":"2-7",'
        '"total_available_cpus":12,"remaining_available_cpus":6}',
    )
    exact(
        daemon,
        '{"action":"allocate_cores_percent","service_name":"a","percent":0}',
        '{"pool":"isolated","version":"1.0","preemption_policy":null,'
        '"service_name":"a","cores_allocated_count":0,"allocated_cores":"",'
        '"total_available_cpus":12,"remaining_available_cpus":12}',
    )


def test_allocate_numa_cores(daemon: Daemon):
    exact(
        daemon,
        '{"action":"allocate_numa_cores","service_name":"a","numa_node":1.0,"num_of_cores":" 2 "}',
        '{"pool":"isolated","version":"1.0","preemption_policy":"legacy","service_name":"a",'
        '"numa_node":1,"num_of_cores":2,"cores_allocated":"10-11",'
        '"total_available_cpus":12,"remaining_available_cpus":10}',
    )
    exact(
        daemon,
        '{"action":"allocate_numa_cores","service_name":"a","numa_node":1,"num_of_cores":-1}',
        '{"pool":"isolated","version":"1.0","preemption_policy":null,"service_name":"a",'
        '"numa_node":1,"num_of_cores":-1,"cores_allocated":"",'
        '"total_available_cpus":12,"remaining_available_cpus":12}',
    )


FEATURES = (
    '["non-preemptive-allocations","cpu-pools","topology","health","keep-alive","reload",'
    '"ovs-affinity","history","backup","verify"]'
)


def test_list_allocations(daemon: Daemon):
    daemon.ask("allocate_numa_cores", service_name="b", numa_node=0, num_of_cores=2)
    daemon.ask("allocate_cores", service_name="ü", num_of_cores=1)
    daemon.ask("allocate_cores", service_name="g", num_of_cores=2, pool="general")
    exact(
        daemon,
        '{"action":"list_allocations","service_name":null,"numa_node":null}',
        f'{{"supported_cpu_features":{FEATURES},"pool":"isolated","version":"1.0",'
        '"total_allocations":2,"total_allocated_cpus":3,"total_available_cpus":12,'
        '"remaining_available_cpus":9,"allocations":['
        '{"pool":"isolated","preemption_policy":"legacy","service_name":"b",'
        '"allocated_cores":"2-3","cores_count":2,"is_explicit":true},'
        '{"pool":"isolated","preemption_policy":"legacy","service_name":"ü",'
        '"allocated_cores":"4","cores_count":1,"is_explicit":false}],'
        '"cpu_pool":{"source":"isolated","configured_cpus":"2-7,10-15",'
        '"eligible_cpus":"2-7,10-15","unavailable_allocated_cpus":""}}',
    )
    exact(
        daemon,
        '{"action":"list_allocations","pool":"general"}',
        f'{{"supported_cpu_features":{FEATURES},"pool":"general","version":"1.0",'
        '"total_allocations":1,"total_allocated_cpus":2,"total_available_cpus":4,'
        '"remaining_available_cpus":2,"allocations":['
        '{"pool":"general","preemption_policy":"legacy","service_name":"g",'
        '"allocated_cores":"0-1","cores_count":2,"is_explicit":false}],'
        '"cpu_pool":{"source":"configured","configured_cpus":"0-1,8-9",'
        '"eligible_cpus":"0-1,8-9","unavailable_allocated_cpus":""}}',
    )


def test_owners_are_listed_by_code_point(daemon: Daemon):
    for name in ("b", "B", "a10", "a9", "é", "-"):
        daemon.ask("allocate_cores", service_name=name, num_of_cores=1)
    assert list(daemon.owners()) == ["-", "B", "a10", "a9", "b", "é"]


def test_get_memory_info(daemon: Daemon):
    daemon.ask(
        "allocate_hugepages", service_name="s", hugepages_requested=5, node_id=0, size_kb=2048
    )
    exact(
        daemon,
        '{"action":"get_memory_info"}',
        '{"version":"1.0","service_name":"","numa_hugepages":{'
        '"node0":{"capacity":[{"total":32,"free":27,"size":2048},'
        '{"total":1,"free":1,"size":1048576}],"allocations":{"s":{"2048":5}}},'
        '"node1":{"capacity":[{"total":32,"free":32,"size":2048},'
        '{"total":2,"free":2,"size":1048576}],"allocations":{}}}}',
    )
    assert daemon.ask("get_memory_info", service_name="me")["service_name"] == "me"


def test_allocate_hugepages(daemon: Daemon):
    start = '{"action":"allocate_hugepages","service_name":"s","node_id":"1","size_kb":1048576,'
    exact(
        daemon,
        start + '"hugepages_requested":2}',
        '{"version":"1.0","service_name":"s","hugepages_requested":2,'
        '"allocation_successful":true,"message":"Successfully set allocation request to 2 '
        'hugepages","node_id":1,"size_kb":1048576}',
    )
    exact(
        daemon,
        start + '"hugepages_requested":-1}',
        '{"version":"1.0","service_name":"s","hugepages_requested":-1,'
        '"allocation_successful":true,"message":"Removed recorded hugepage allocation",'
        '"node_id":1,"size_kb":1048576}',
    )


def test_get_topology(daemon: Daemon):
    daemon.ask("allocate_cores", service_name="a", num_of_cores=2)
    reply = daemon.ask("get_topology")
    assert (reply["online"], reply["isolated"], reply["general"]) == (
        "0-15",
        "2-7,10-15",
        "0-1,8-9",
    )
    assert reply["nodes"] == [{"node": 0, "cpus": "0-7"}, {"node": 1, "cpus": "8-15"}]
    assert reply["cpus"][3] == {
        "cpu": 3,
        "online": True,
        "node": 0,
        "package": 0,
        "core": 2,
        "cache": "0-7",
        "pool": "isolated",
        "owners": ["a"],
    }
    assert len(reply["cpus"]) == 16


def test_get_health(daemon: Daemon):
    daemon.ask("allocate_cores", service_name="a", num_of_cores=2)
    reply = daemon.ask("get_health")
    assert reply["healthy"] is True
    assert (reply["services"], reply["claimed_cpus"], reply["pid"]) == (1, 2, daemon.pid)
    assert reply["problems"] == []


def test_offline_cpus_are_never_granted_and_shown_when_owned(daemon: Daemon):
    daemon.ask("allocate_cores", service_name="a", num_of_cores=4)
    host_trees.write(daemon.root / "sys/devices/system/cpu/online", "0-4,6-15")
    listing = daemon.listing()
    assert listing["cpu_pool"]["eligible_cpus"] == "2-4,6-7,10-15"
    assert listing["cpu_pool"]["unavailable_allocated_cpus"] == "5"
    assert (listing["total_allocated_cpus"], listing["total_available_cpus"]) == (4, 11)
    assert listing["remaining_available_cpus"] == 8
    health = daemon.ask("get_health")
    assert [problem["code"] for problem in health["problems"]] == ["claims-offline"]
    reply = daemon.ask("allocate_cores_percent", service_name="b", percent=70)
    assert reply["allocated_cores"] == "6-7,10-15"


def test_a_host_without_isolated_cpus_is_a_no_op_that_answers(make_daemon: MakeDaemon):
    daemon = make_daemon(host_trees.HOSTS / "plain-1cpu").start()
    listing = daemon.listing()
    assert (listing["total_available_cpus"], listing["allocations"]) == (0, [])
    assert daemon.ask("get_memory_info")["numa_hugepages"]["node0"]["allocations"] == {}
    assert daemon.ask("get_health")["healthy"] is True
    for action, fields in (
        ("allocate_cores", {"num_of_cores": -1}),
        ("allocate_cores_percent", {"percent": 0}),
        ("allocate_numa_cores", {"num_of_cores": -1, "numa_node": 0}),
        ("allocate_hugepages", {"hugepages_requested": -1, "node_id": 0, "size_kb": 4}),
    ):
        assert "error" not in daemon.ask(action, service_name="a", **fields)
    refusal = daemon.ask("allocate_cores", service_name="a")
    assert refusal["error"] == "No CPUs available: No Isolated CPUs configured"


def test_allocation_replies_stay_below_4096_bytes_on_a_large_host(make_daemon: MakeDaemon):
    tree = host_trees.regular(nodes=4, cores=32, threads=2, isolated="1-255")
    daemon = make_daemon(tree).start()
    raw = daemon.raw(b'{"action":"allocate_cores","service_name":"a"}')
    assert len(raw) < 4096
    assert json.loads(raw)["cores_allocated"] == 255 - 16
