# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""From the daemon that is deployed today to this one, and back and forth, by snap refresh.

The deployed daemon is a stand-in that keeps its state as that one does, in the old revision's
data; it grants the lowest free CPUs of 2-7.
"""

import json

import pytest

from tests.integration.orchestrator import SOCKET, Orchestrator

DATA = SOCKET.rpartition("/")[0]
OLD_STATE = {
    "allocations_db": {
        "allocation_pools": {"ceph-osd.0": "general"},
        "allocations": {"ceph-osd.0": "0-1", "nova": "2-3", "dpdk": "4-5"},
        "explicit_allocations": {"ceph-osd.0": "0-1", "dpdk": "4-5"},
        "preemption_policies": {"ceph-osd.0": "non-preemptive"},
    },
    "hugepages_db": {"allocations": {"dpdk": [{"count": 1, "node_id": 0, "size_kb": 1048576}]}},
    "updated_at": "2026-01-01T00:00:00.000000+00:00",
    "version": 1,
}


def test_a_state_of_the_deployed_daemon_is_taken_over_claims_intact(deployed: Orchestrator):
    machine = deployed.machine
    machine.write(f"{DATA}/state.json", json.dumps(OLD_STATE))
    machine.run("snap set epa-orchestrator cpu-pool=0-1 internal.validated-cpu-pool=0-1")
    deployed.refresh()
    deployed.wait()
    listed = {a["service_name"]: a for a in deployed.ask("list_allocations")["allocations"]}
    assert {name: a["allocated_cores"] for name, a in listed.items()} == {
        "dpdk": "4-5",
        "nova": "2-3",
    }
    assert (listed["dpdk"]["is_explicit"], listed["nova"]["is_explicit"]) == (True, False)
    (osd,) = deployed.ask("list_allocations", pool="general")["allocations"]
    assert (osd["allocated_cores"], osd["preemption_policy"]) == ("0-1", "non-preemptive")
    machine.run("snap connect epa-orchestrator:hardware-observe", timeout=120)
    node = deployed.ask("get_memory_info")["numa_hugepages"]["node0"]
    assert node["allocations"] == {"dpdk": {"1048576": 1}}
    assert machine.run(f"ls {DATA}").stdout.split() == ["epa.sock"]
    imported = "/var/snap/epa-orchestrator/common/state/imported"
    assert "state.json" in machine.run(f"ls {imported}/* | head -5").stdout


@pytest.mark.parametrize(
    "content", ['{"allocations_db": {"alloc', "PK\x03\x04", '{"allocations_db": []}']
)
def test_a_refresh_over_a_state_that_cannot_be_understood_is_undone(
    deployed: Orchestrator, content: str
):
    machine = deployed.machine
    deployed.allocate("nova", 2)
    good = machine.read(f"{DATA}/state.json")
    machine.write(f"{DATA}/state.json", content)
    refused = deployed.try_to_refresh()
    assert refused.returncode == 1
    said = " ".join(refused.stderr.split())
    assert "this revision cannot take over" in said
    assert "state.json" in said
    assert machine.read(f"{DATA}/state.json").decode() == content
    machine.write(f"{DATA}/state.json", good)
    deployed.wait()
    assert deployed.owners_deployed() == {"nova": "2,3"}


def test_there_and_back_and_there_again_gives_no_cpu_two_owners(deployed: Orchestrator):
    machine = deployed.machine
    deployed.allocate("nova", 2)
    deployed.refresh()
    deployed.wait()
    assert deployed.allocate("dpdk", 2) == "4-5"
    machine.run("snap revert epa-orchestrator", timeout=180)
    deployed.wait()
    # It knows nothing of dpdk.
    assert deployed.allocate("late", 2) == "4,5"
    refused = " ".join(deployed.try_to_refresh().stderr.split())
    assert "dpdk" in refused
    assert "late" in refused
    assert "snap set epa-orchestrator takeover.prefer=old" in refused
    deployed.wait()
    machine.run("snap set epa-orchestrator takeover.prefer=old")
    deployed.refresh()
    assert deployed.owners() == {"late": "4-5", "nova": "2-3"}
    stored = json.loads(machine.run("snap get -d epa-orchestrator").stdout)
    assert not stored.get("takeover")


@pytest.mark.long
def test_what_the_deployed_daemon_granted_after_a_revert_is_merged(deployed: Orchestrator):
    deployed.allocate("nova", 2)
    deployed.refresh()
    deployed.wait()
    deployed.machine.run("snap revert epa-orchestrator", timeout=180)
    deployed.wait()
    assert deployed.allocate("late", 2) == "4,5"
    deployed.refresh()
    deployed.wait()
    assert deployed.owners() == {"late": "4-5", "nova": "2-3"}
