# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Every error reply through the socket: exact text, code, and nothing changed."""

import json
from typing import Any

import pytest

from tests import host_trees
from tests.functional.daemons import Daemon, MakeDaemon

CPU = "sys/devices/system/cpu"


def hugepages(**fields: Any) -> dict[str, Any]:
    return {
        "action": "allocate_hugepages",
        "service_name": "x",
        "hugepages_requested": 1,
        "node_id": 0,
        "size_kb": 2048,
    } | fields


def cores(**fields: Any) -> dict[str, Any]:
    return {"action": "allocate_cores", "service_name": "x", "num_of_cores": 1} | fields


def numa(**fields: Any) -> dict[str, Any]:
    return {
        "action": "allocate_numa_cores",
        "service_name": "x",
        "numa_node": 0,
        "num_of_cores": 1,
    } | fields


REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    (cores(service_name="nova", num_of_cores=9, pool="general"), "wrong-pool",
     "Service nova owns CPUs in pool isolated; "
     "release that allocation in its pool before switching pools"),
    (cores(service_name="nova", num_of_cores=-1, pool="general"), "wrong-pool",
     "Service nova owns CPUs in pool isolated; "
     "release that allocation in its pool before switching pools"),
    (numa(num_of_cores=0), "invalid-count",
     "num_of_cores=0 is invalid for allocate_numa_cores"),
    (numa(num_of_cores=-2), "invalid-count", "Invalid NUMA core count"),
    (numa(numa_node=2), "no-such-node", "NUMA node 2 does not exist"),
    (numa(numa_node=2, num_of_cores=-1), "no-such-node", "NUMA node 2 does not exist"),
    (numa(num_of_cores=7), "node-too-small",
     "NUMA node 0 only has 6 eligible CPUs, but 7 were requested"),
    (numa(pool="general", numa_node=1, num_of_cores=2), "held-by-others",
     "Failed to allocate 2 cores from NUMA node 1. CPUs 8 are held by other services "
     "through an explicit NUMA or non-preemptive claim."),
    (cores(service_name="osd", pool="general", preemption_policy="legacy"), "policy-downgrade",
     "Fully release protected claims before selecting legacy policy"),
    (cores(num_of_cores=11), "insufficient-cpus",
     "Insufficient CPUs available. Requested: 11, Available: 8"),
    ({"action": "allocate_cores_percent", "service_name": "x", "percent": 90},
     "insufficient-cpus", "Insufficient CPUs available. Requested: 11, Available: 8"),
    (hugepages(hugepages_requested=0), "invalid-count",
     "hugepages_requested=0 is invalid for allocate_hugepages"),
    (hugepages(node_id=7), "no-such-node", "NUMA node 7 not found"),
    (hugepages(size_kb=4), "no-such-hugepage-size", "Hugepage size 4 KB not found on node 0"),
    (hugepages(hugepages_requested=33), "insufficient-hugepages",
     "NUMA node 0 size 2048 KB only has 32 free hugepages, requested additional 33"),
    (hugepages(hugepages_requested=-2), "invalid-request",
     "Invalid request: hugepages_requested must be a whole number above 0, "
     "or -1 to remove the record (got -2)"),
    (cores(num_of_cores=-2), "invalid-request",
     "Invalid request: num_of_cores must be a whole number of at least -1 "
     "(0: heuristic, -1: release) (got -2)"),
    (cores(num_of_cores=False), "invalid-request",
     "Invalid request: num_of_cores must be a whole number of at least -1 "
     "(0: heuristic, -1: release) (got false)"),
    ({"action": "allocate_cores_percent", "service_name": "x", "percent": 101},
     "invalid-request",
     "Invalid request: percent must be a whole number from -1 to 100 (got 101)"),
    (cores(pool=None), "invalid-request",
     'Invalid request: pool must be "isolated" or "general" (got null)'),
    (cores(keep_alive=1), "invalid-request",
     "Invalid request: keep_alive must be true, false or absent (got 1)"),
    ({"action": "grant"}, "unknown-action", "Unknown action: grant"),
    ({}, "unknown-action", "Unknown action: None"),
]  # fmt: skip


def prepared(daemon: Daemon) -> None:
    daemon.ask("allocate_cores", service_name="nova", num_of_cores=4)
    daemon.ask(
        "allocate_numa_cores",
        service_name="osd",
        pool="general",
        numa_node=1,
        num_of_cores=1,
        preemption_policy="non-preemptive",
    )


def test_refusals_say_exactly_why_and_change_nothing(daemon: Daemon):
    prepared(daemon)
    before = (daemon.listing(), daemon.listing(pool="general"), daemon.ask("get_memory_info"))
    for request, code, text in REFUSALS:
        reply = json.loads(daemon.raw(json.dumps(request).encode()))
        assert list(reply.items()) == [("version", "1.0"), ("error", text), ("code", code)]
    after = (daemon.listing(), daemon.listing(pool="general"), daemon.ask("get_memory_info"))
    assert after == before


BAD_BYTES = [
    b"x",
    b"[1]",
    b'"{}"',
    b"null",
    b"\x00",
    b"\xff\xfe{}",
    b"{]}",
    b"{'a':1}",
    b'{"action":"list_allocations"} {"action":"list_allocations"}',
    b'{"action":"list_allocations"}x',
    b'{"action":NaN}',
    b'{"action":"list_allocations","x":' + b"9" * 5000 + b",}",
    b'{"a":' + b"[" * 20000 + b"]" * 20000 + b"}",
    b"{" * 1000 + b'"' + b"}" * 1000 + b'"' + b"}" * 1000,
    b'{"action":"\xc3\x28"}',
    b'{"action":"\\ud83d"}',
    b'{"action":"allocate_cores","service_name":"a\x00"}',
]


@pytest.mark.parametrize("blanks", [b"", b" \r\n\t"])
def test_what_is_no_request_gets_one_error_and_the_end(daemon: Daemon, blanks: bytes):
    for data in BAD_BYTES:
        reply = json.loads(daemon.raw(blanks + data))
        assert list(reply) == ["version", "error", "code"], data[:50]
        assert reply["code"] == "invalid-json", data[:50]
    assert daemon.owners() == {}


def test_the_host_s_files_at_fault_are_named(daemon: Daemon):
    daemon.ask("allocate_cores", service_name="nova", num_of_cores=2)
    online = daemon.root / CPU / "online"
    host_trees.write(online, "0-15,x")
    reply = daemon.ask("allocate_cores", service_name="x", num_of_cores=1)
    assert reply == {
        "version": "1.0",
        "error": "Invalid cpu-pool CPU list component: 'x'",
        "code": "host-unreadable",
        "path": str(online),
    }
    online.unlink()
    reply = daemon.ask("allocate_cores", service_name="x", num_of_cores=1)
    assert reply["error"] == f"Failed to read CPU topology {online}: No such file or directory"
    listing = daemon.listing()
    assert (listing["total_available_cpus"], listing["remaining_available_cpus"]) == (0, 0)
    assert listing["cpu_pool"]["unavailable_allocated_cpus"] == "2-3"
    assert "error" not in daemon.ask("allocate_cores", service_name="nova", num_of_cores=-1)


def test_a_malformed_node_refuses_grants_in_it_and_names_the_file(make_daemon: MakeDaemon):
    tree = host_trees.regular(nodes=2, isolated="2-15")
    daemon = make_daemon(tree)
    cpulist = daemon.root / "sys/devices/system/node/node1/cpulist"
    host_trees.write(cpulist, "8-x")
    daemon.start()
    reply = daemon.ask("allocate_numa_cores", service_name="x", numa_node=1, num_of_cores=1)
    assert (reply["code"], reply["path"]) == ("host-unreadable", str(cpulist))
    assert "error" not in daemon.ask(
        "allocate_numa_cores", service_name="x", numa_node=1, num_of_cores=-1
    )
    problems = daemon.ask("get_health")["problems"]
    assert any(str(cpulist) in problem["text"] for problem in problems)


def test_unreadable_hugepage_counts_are_an_error_logged_once(daemon: Daemon):
    free = daemon.root / "sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages"
    free.unlink()
    free.mkdir()
    for _ in range(3):
        reply = daemon.ask("get_memory_info")
        assert reply["code"] == "memory-unreadable"
        assert reply["error"].startswith(f"Failed to get memory information: {free}: Is a dir")
    reply = json.loads(daemon.raw(json.dumps(hugepages()).encode()))
    assert reply["code"] == "memory-unreadable"
    assert "error" not in json.loads(
        daemon.raw(json.dumps(hugepages(hugepages_requested=-1)).encode())
    )
    assert daemon.log.read_text().count(str(free)) == 1
    assert "snap connect" in daemon.log.read_text()


def test_no_general_pool(make_daemon: MakeDaemon):
    daemon = make_daemon(host_trees.TWO_SOCKETS).start()
    for request in (
        cores(pool="general"),
        cores(pool="general", num_of_cores=-1),
        {"action": "list_allocations", "pool": "general"},
    ):
        reply = json.loads(daemon.raw(json.dumps(request).encode()))
        assert reply["error"] == "CPU pool general is not configured"
        assert reply["code"] == "pool-not-configured"


@pytest.mark.parametrize("value", ["8-", "1-3", "99999"])
def test_an_unusable_general_pool_has_no_cpus_and_the_isolated_one_works(
    make_daemon: MakeDaemon, value: str
):
    daemon = make_daemon(host_trees.TWO_SOCKETS, cpu_pool=value).start()
    listing = daemon.listing(pool="general")
    assert listing["cpu_pool"]["source"] == "configured"
    assert listing["total_available_cpus"] == 0
    reply = json.loads(daemon.raw(json.dumps(cores(pool="general")).encode()))
    assert reply["error"] == "No CPUs available"
    assert daemon.ask("allocate_cores", service_name="a", num_of_cores=1)["cores_allocated"] == 1
    assert "ERROR" in daemon.log.read_text()
    assert daemon.ask("get_health")["problems"][0]["code"] == "invalid-cpu-pool"


def test_no_numa_folders(make_daemon: MakeDaemon):
    tree = host_trees.HostTree(cores=(frozenset({0, 1}),), nodes=None, isolated=frozenset({1}))
    daemon = make_daemon(tree).start()
    for count in (1, -1):
        reply = daemon.ask(
            "allocate_numa_cores", service_name="x", numa_node=0, num_of_cores=count
        )
        assert (reply["error"], reply["code"]) == ("NUMA topology not available", "no-numa")
    assert daemon.ask("get_memory_info")["numa_hugepages"] == {}
    reply = json.loads(daemon.raw(json.dumps(hugepages()).encode()))
    assert reply["error"] == "NUMA node 0 not found"
    assert daemon.ask("allocate_cores", service_name="x")["error"] == "Failed to allocate 0 cores"


def test_a_pool_that_lost_owned_cpus(daemon: Daemon):
    daemon.ask("allocate_cores", service_name="a", num_of_cores=2)
    host_trees.write(daemon.root / CPU / "isolated", "4-7")
    reply = daemon.ask("allocate_cores", service_name="b", num_of_cores=1)
    assert reply["error"] == (
        "cpu-pool excludes allocated CPUs: 2-3; "
        "release or migrate these allocations before changing the pool"
    )
    host_trees.write(daemon.root / CPU / "isolated", "2-7")
    host_trees.write(daemon.root / CPU / "online", "0-2,4-15")
    reply = daemon.ask("allocate_cores", service_name="a", num_of_cores=2)
    assert reply["error"] == (
        "Existing claims are outside the eligible CPU pool; explicitly release before replacing"
    )


def test_pools_that_come_to_overlap_leave_the_general_one_without_cpus(daemon: Daemon):
    isolated = daemon.root / CPU / "isolated"
    host_trees.write(isolated, "2-9")
    reply = daemon.ask("allocate_cores", service_name="g", num_of_cores=1, pool="general")
    assert reply["error"] == "No CPUs available"
    problems = daemon.ask("get_health")["problems"]
    assert problems[0]["text"].startswith("General cpu-pool overlaps isolated CPUs: 8-9")
    assert daemon.log.read_text().count("overlaps isolated CPUs") == 1
    host_trees.write(isolated, "2-7")
    reply = daemon.ask("allocate_cores", service_name="g", num_of_cores=1, pool="general")
    assert reply["allocated_cores"] == "0"


def test_what_is_wrong_with_a_host_is_in_the_log_before_anybody_asks(make_daemon: MakeDaemon):
    daemon = make_daemon()
    size = daemon.root / "sys/devices/system/node/node0/hugepages/hugepages-2048kB"
    (size / "nr_hugepages").unlink()
    (daemon.root / CPU / "online").unlink()
    daemon.start()
    log = daemon.log.read_text()
    assert f"WARNING {size}/nr_hugepages: No such file" in log
    assert f"WARNING {daemon.root}/{CPU}/online: No such file" in log
    texts = [problem["text"] for problem in daemon.ask("get_health")["problems"]]
    assert len(texts) == 2
