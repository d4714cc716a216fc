# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The packed snap on a real kernel with isolcpus, under a real snapd, AppArmor and seccomp.

The machine has 8 CPUs in cores of two threads (0-1, 2-3, ...), NUMA nodes 0-3 and 4-7 and
isolcpus=2-7. A second strict snap is the client, through the content interface.
"""

import concurrent.futures
import json
import re
import threading
from pathlib import Path

import pytest

from tests.integration.lab.lab import Template
from tests.integration.lab.machine import Machine
from tests.integration.lab.shape import Node, Shape
from tests.integration.orchestrator import SOCKET, Orchestrator

LARGE = Shape(
    cpus=128,
    nodes=(Node("0-63", 2048), Node("64-127", 2048)),
    isolated="8-127",
)


def test_without_connections_cpus_are_granted_and_what_is_missing_is_said(
    unconnected: Orchestrator,
):
    epa, machine = unconnected, unconnected.machine
    lines = machine.run("snap connections epa-orchestrator").stdout.splitlines()[1:]
    slots = {line.split()[1].partition(":")[2]: line.split()[2] for line in lines}
    assert slots["network-bind"] == ":network-bind"
    assert {slots[plug] for plug in ("hardware-observe", "process-control")} == {"-"}
    assert epa.allocate("a", 2) == "2-3"
    refused = epa.ask("get_memory_info")
    assert refused["code"] == "memory-unreadable"
    assert "Permission denied" in refused["error"]
    health = machine.run("epa-orchestrator health", check=False)
    assert health.returncode == 1
    (line,) = health.stdout.splitlines()[1:]
    assert "snap connect epa-orchestrator:hardware-observe" in line
    assert epa.log().count("snap connect epa-orchestrator:hardware-observe") == 1
    machine.run("snap connect epa-orchestrator:hardware-observe", timeout=120)
    assert "error" not in epa.ask("get_memory_info")
    assert machine.run("epa-orchestrator health").returncode == 0


def test_with_its_plug_hugepages_are_what_the_kernel_says(epa: Orchestrator):
    machine = epa.machine
    nodes = epa.ask("get_memory_info")["numa_hugepages"]
    for node, size in ((0, 2048), (1, 2048), (0, 1048576), (1, 1048576)):
        folder = f"/sys/devices/system/node/node{node}/hugepages/hugepages-{size}kB"
        total, free = machine.run(
            f"cat {folder}/nr_hugepages {folder}/free_hugepages"
        ).stdout.split()
        capacity = {entry["size"]: entry for entry in nodes[f"node{node}"]["capacity"]}[size]
        assert (capacity["total"], capacity["free"]) == (int(total), int(free))
        assert int(total) > 0
    granted = epa.ask(
        "allocate_hugepages", service_name="a", hugepages_requested=1, node_id=0, size_kb=1048576
    )
    assert granted["allocation_successful"] is True
    assert machine.run("epa-orchestrator health").returncode == 0


def test_numa_grants_are_the_siblings_of_the_node(epa: Orchestrator):
    def siblings(cpu: int) -> str:
        path = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        return epa.machine.read(path).decode().strip()

    for node, expected in ((0, "2-3"), (1, "4-5")):
        reply = epa.ask("allocate_numa_cores", service_name="a", numa_node=node, num_of_cores=2)
        assert reply["cores_allocated"] == expected == siblings(int(expected[0]))


def test_an_offline_cpu_is_never_granted_and_its_owner_is_shown(epa: Orchestrator):
    assert epa.allocate("a", 2) == "2-3"
    epa.machine.write("/sys/devices/system/cpu/cpu3/online", "0")
    epa.machine.write("/sys/devices/system/cpu/cpu5/online", "0")
    pool = epa.ask("list_allocations")["cpu_pool"]
    assert (pool["eligible_cpus"], pool["unavailable_allocated_cpus"]) == ("2,4,6-7", "3")
    assert epa.allocate("b", 3) == "4,6-7"
    assert epa.ask("allocate_cores", service_name="c", num_of_cores=1)["code"] == (
        "insufficient-cpus"
    )
    epa.machine.write("/sys/devices/system/cpu/cpu5/online", "1")
    assert epa.allocate("c", 1) == "5"


def test_without_isolcpus_it_answers_every_query_and_grants_nothing(ready: Template):
    with ready.boot(Shape(nodes=(Node("0-3", 1024), Node("4-7", 1024)))) as machine:
        epa = Orchestrator(machine)
        epa.wait()
        listing = epa.ask("list_allocations")
        assert (listing["total_available_cpus"], listing["allocations"]) == (0, [])
        assert epa.ask("get_memory_info")["numa_hugepages"].keys() == {"node0", "node1"}
        refused = epa.ask("allocate_cores", service_name="a", num_of_cores=0)
        assert refused["error"] == "No CPUs available: No Isolated CPUs configured"
        for node in (0, 1):
            released = epa.ask(
                "allocate_numa_cores", service_name="a", numa_node=node, num_of_cores=-1
            )
            assert released["cores_allocated"] == ""
        assert machine.run("epa-orchestrator health").returncode == 0


@pytest.mark.long
def test_above_100_candidates_all_but_16_are_granted(ready: Template):
    with ready.boot(LARGE) as machine:
        epa = Orchestrator(machine)
        epa.wait()
        assert epa.ask("allocate_cores", service_name="a")["cores_allocated"] == 104
        assert epa.ask("list_allocations")["remaining_available_cpus"] == 16


def test_a_consumer_keeps_talking_whatever_happens_to_the_daemon(epa: Orchestrator):
    machine = epa.machine
    held = epa.allocate("a", 2)

    def is_remembered() -> None:
        epa.wait()
        assert epa.owners() == {"a": held}
        assert epa.allocate("a", 2) == held

    machine.run("snap restart epa-orchestrator.daemon")
    is_remembered()
    machine.run("systemctl kill -s KILL snap.epa-orchestrator.daemon")
    is_remembered()
    epa.refresh()
    is_remembered()
    assert epa.allocate("b", 2) == "4-5"
    machine.run("snap revert epa-orchestrator", timeout=120)
    epa.wait()
    assert epa.owners() == {"a": held, "b": "4-5"}
    machine.run("snap disconnect epa-consumer:epa-info")
    assert epa.consumer("list_allocations").returncode != 0
    machine.run("snap connect epa-consumer:epa-info epa-orchestrator:epa-info")
    assert epa.owners() == {"a": held, "b": "4-5"}
    machine.run("snap stop epa-orchestrator")
    assert machine.run(f"test -e {SOCKET}", check=False).returncode == 1
    assert epa.consumer("list_allocations").returncode != 0
    machine.run("snap start epa-orchestrator")
    epa.wait()
    assert epa.owners() == {"a": held, "b": "4-5"}


def test_the_shared_folder_holds_the_socket_alone(epa: Orchestrator):
    epa.allocate("a", 2)
    listing = epa.machine.run(f"stat -c '%a %U:%G %n' {Path(SOCKET).parent}/*").stdout
    assert listing == f"660 root:root {SOCKET}\n"
    state = epa.machine.run("stat -c %a /var/snap/epa-orchestrator/common/state").stdout
    assert state == "700\n"


def test_options_are_judged_and_taken_without_dropping_a_connection(epa: Orchestrator):
    machine = epa.machine
    epa.allocate("a", 2)
    pid = epa.pid()
    refused = {
        "cpu-pool=2-3": "Invalid cpu-pool configuration: General cpu-pool overlaps",
        "cpu-pool=1-0": "Invalid cpu-pool descending range: '1-0'",
        "cpu-pool=0-9": "cpu-pool range is outside present CPU topology: '0-9'",
        "cpu-pool=9": "cpu-pool includes CPUs not present: '9'",
        "cpu-pool=true": "cpu-pool must be 'isolated' or a CPU list",
        "policy.small-system-percent=0": "'0' is not a whole number from 1 to 100",
        "policy.large-system-reserved=x": "'x' is not a whole number from 0 to 65535",
    }
    for setting, reason in refused.items():
        done = machine.run(f"snap set epa-orchestrator {setting}", check=False)
        assert done.returncode == 1
        assert reason in " ".join(done.stderr.split()), done.stderr
    assert epa.ask("list_allocations", pool="general")["code"] == "pool-not-configured"
    machine.run("snap set epa-orchestrator cpu-pool=0-1 policy.small-system-percent=50")
    assert epa.ask("allocate_cores", service_name="g", pool="general")["cores_allocated"] == 1
    assert epa.ask("allocate_cores", service_name="h")["cores_allocated"] == 2
    done = machine.run("snap set epa-orchestrator cpu-pool=1", check=False)
    assert "cpu-pool excludes allocated CPUs: 0" in " ".join(done.stderr.split())
    done = machine.run("snap unset epa-orchestrator cpu-pool", check=False)
    assert "CPU pool general is not configured" in " ".join(done.stderr.split())
    assert epa.pid() == pid
    machine.run("snap set epa-orchestrator cpu-pool=0")
    stored = machine.run("snap get -d epa-orchestrator").stdout
    assert json.loads(stored)["internal"] == {"validated-cpu-pool": "0"}
    machine.run("snap restart epa-orchestrator")
    epa.wait()
    assert epa.owners(pool="general") == {"g": "0"}
    assert epa.owners() == {"a": "2-3", "h": "4-5"}


def test_options_set_while_the_service_is_stopped_hold_when_it_starts(epa: Orchestrator):
    machine = epa.machine
    machine.run("snap stop epa-orchestrator")
    machine.run("snap set epa-orchestrator cpu-pool=0-1")
    done = machine.run("snap set epa-orchestrator cpu-pool=1-2", check=False)
    assert "overlaps isolated CPUs: 2" in " ".join(done.stderr.split())
    machine.run("snap start epa-orchestrator")
    epa.wait()
    pool = epa.ask("list_allocations", pool="general")["cpu_pool"]
    assert pool["configured_cpus"] == "0-1"


@pytest.mark.long
def test_a_client_that_tries_again_sees_no_error_during_a_refresh(epa: Orchestrator):
    """Ceph's charm tries again on connection errors and empty replies; an error is final."""
    pids: list[object] = []
    done = threading.Event()

    def keep_asking() -> list[object]:
        while not done.is_set():
            answer = epa.consumer("get_health")
            if answer.returncode == 0:
                pids.append(json.loads(answer.stdout).get("pid", answer.stdout))
        return pids

    with concurrent.futures.ThreadPoolExecutor() as pool:
        asking = pool.submit(keep_asking)
        before = epa.pid()
        epa.refresh()
        after = epa.pid()
        epa.wait()
        done.set()
        assert set(asking.result()) <= {before, after}
    assert before != after
    assert pids[0] == before
    assert epa.ask("get_health")["pid"] == after


def test_a_refusal_to_start_stays_down_says_why_and_touches_nothing(epa: Orchestrator):
    machine = epa.machine
    old = f"{Path(SOCKET).parent}/state.json"
    machine.run("snap stop epa-orchestrator")
    machine.write(old, '{"allocations_db": 5}')
    machine.run("snap start epa-orchestrator")
    unit = "snap.epa-orchestrator.daemon"
    machine.run(f"until systemctl is-failed {unit}; do sleep 0.2; done")
    # Longer than the delay before a restart.
    machine.run("sleep 3")
    shown = machine.run(f"systemctl show -p ExecMainStatus,NRestarts,ActiveState {unit}").stdout
    assert set(shown.split()) == {"ExecMainStatus=78", "NRestarts=0", "ActiveState=failed"}
    assert epa.log().count("state.json") == 1
    checked = machine.run("snap run epa-orchestrator.daemon --check --format json", check=False)
    assert checked.returncode == 78
    (problem,) = json.loads(checked.stdout)["problems"]
    assert "state.json" in problem["text"]
    assert machine.read(old) == b'{"allocations_db": 5}'
    assert machine.run(f"test -e {SOCKET}", check=False).returncode == 1


def test_a_host_is_recorded_by_the_confined_command(epa: Orchestrator):
    machine = epa.machine
    machine.write("/etc/openvswitch/enable_dynamic_cpu_affinity", "yes")
    folder = "/var/snap/epa-orchestrator/common/host"
    machine.run(f"epa-orchestrator record {folder}")
    assert json.loads(machine.read(f"{folder}/record.json"))["not_read"] == {
        "daemon/list-general.json": "CPU pool general is not configured"
    }
    switch = f"{folder}/etc/openvswitch/enable_dynamic_cpu_affinity"
    assert machine.read(switch) == b"yes"
    compared = machine.run(
        f"cd {folder} && find sys -type f | while read f; do cmp $f /$f; done", check=False
    )
    assert compared.stdout == ""
    machine.run("cd /tmp && epa-orchestrator record - > host.tar && tar -xf host.tar")
    assert machine.run(f"diff -r {folder}/sys /tmp/host/sys").stdout == ""


def test_nothing_is_denied_in_normal_work(epa: Orchestrator):
    machine = epa.machine
    seen = len(_denials(machine))
    machine.run("snap restart epa-orchestrator")
    epa.wait()
    epa.allocate("a", 2)
    for action in ("list_allocations", "get_memory_info", "get_topology", "get_health"):
        assert "error" not in epa.ask(action)
    machine.run("snap set epa-orchestrator cpu-pool=0-1")
    for command in ("list", "topology", "hugepages", "health", "release a"):
        machine.run(f"epa-orchestrator {command}")
    machine.run("snap stop epa-orchestrator && snap start epa-orchestrator")
    epa.wait()
    assert _denials(machine)[seen:] == []
    machine.run("epa-orchestrator health --socket /etc/shadow", check=False)
    machine.run("epa-orchestrator record /etc/forbidden", check=False)
    assert len(_denials(machine)) > seen


def _denials(machine: Machine) -> list[str]:
    """What AppArmor or seccomp kept the snap or its launcher from, from the kernel's log."""
    log = machine.run("journalctl -k --no-pager -o cat").stdout
    who = re.compile(r"snap-confine|snap-update-ns\.epa-orchestrator|snap\.epa-orchestrator\.")
    return [
        line
        for line in log.splitlines()
        if who.search(line) and ("DENIED" in line or "type=1326" in line)
    ]
