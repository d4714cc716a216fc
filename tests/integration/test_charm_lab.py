# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The packed charm on a real machine: what snapd and the daemon say after each of its hooks.

Juju is played by stub hook tools; ops, snapd, the bundled snap and its confinement are real. The
machine is that of test_snap.py.
"""

import json
from pathlib import Path

import pytest

from tests.integration import charm_unit
from tests.integration.charm_unit import IDLE, Unit
from tests.integration.lab import ready

HOOKS = ("install", "config-changed", "start", "update-status", "upgrade-charm", "stop")
HYPERVISOR = "openstack-hypervisor"


def test_install_brings_holds_and_connects_the_bundled_snap(fresh: Unit):
    before = fresh.changes()
    outcome = fresh.run("install")
    assert outcome.statuses[-1] == IDLE
    assert all(status.startswith("maintenance: ") for status in outcome.statuses[:-1])
    plugs = ("etc-openvswitch", "hardware-observe", "process-control")
    made = fresh.changes()[len(before) :]
    assert made[0].startswith('Install "epa-orchestrator" snap from file')
    assert made[1] == 'Hold general refreshes for "epa-orchestrator"'
    assert [line.split()[1] for line in made[2:-1]] == [f"epa-orchestrator:{p}" for p in plugs]
    # The one restart, for process-control.
    assert made[-1] == "Running service command"
    assert fresh.notes() == "held"
    assert "-" not in {fresh.connections()[f"epa-orchestrator:{plug}"] for plug in plugs}
    assert fresh.references() == ["LCK..epa-orchestrator--revx1__epa-orchestrator_0"]
    assert outcome.version in fresh.machine.run("snap list epa-orchestrator").stdout
    fresh.machine.run("snap connect epa-consumer:epa-info epa-orchestrator:epa-info", timeout=120)
    assert fresh.epa.owners() == {}


def test_nothing_is_done_where_nothing_is_needed(unit: Unit):
    before, pid = unit.changes(), unit.epa.pid()
    assert unit.epa.allocate("nova", 2) == "2-3"
    for hook in HOOKS:
        statuses = unit.run(hook).statuses
        assert statuses == (
            []
            if hook == "stop"
            else ["active: 2/6 CPUs held by 1 service, 1G pages 0/2, 2M pages 0/64"]
        )
    assert (unit.changes(), unit.epa.pid()) == (before, pid)


@pytest.mark.long
def test_actions_grant_list_and_release_what_clients_see(unit: Unit):
    unit.config["cpu-pool"] = "0-1"
    assert "general pool 0/2" in unit.run("config-changed").status
    for service, how in (
        ("nova", {"cores": 1}),
        ("dpdk", {"percent": 33}),
        ("ovs", {"cores": 2, "numa_node": 1}),
    ):
        granted = unit.act("allocate-cores", service_name=service, **how)
        assert granted["cpus"] == unit.epa.owners()[service]
    named = {"service_name": "ceph-osd.0", "pool": "general"}
    policy = {"preemption_policy": "non-preemptive"}
    unit.act("allocate-cores", cores=1, **named, **policy)
    (osd,) = unit.epa.ask("list_allocations", pool="general")["allocations"]
    assert (osd["allocated_cores"], osd["preemption_policy"]) == ("0", "non-preemptive")
    table = unit.act("list-allocations")
    rows = [line.split() for line in table["allocations"].splitlines()[1:]]
    assert {row[0]: row[2] for row in rows} == unit.epa.owners() | {"ceph-osd.0": "0"}
    found = json.loads(unit.act("list-allocations", format="json")["allocations"])
    assert {claim["service"] for claim in found} == {"nova", "dpdk", "ovs", "ceph-osd.0"}
    assert unit.act("release", **named)["cpus"] == ""
    unit.act("release", service_name="ovs", numa_node=1)
    assert unit.epa.owners().keys() == {"nova", "dpdk"}
    assert unit.fail("release", service_name="ovs") == "service ovs holds no CPUs of pool isolated"
    assert unit.epa.ask("list_allocations", pool="general")["allocations"] == []


@pytest.mark.long
def test_actions_that_cannot_be_done_change_nothing(unit: Unit):
    unit.epa.allocate("nova", 2)
    refused = {
        "give either cores or percent": {},
        "numa-node goes with cores": {"percent": 10, "numa_node": 0},
        "cores: ": {"cores": 0},
        "insufficient": {"cores": 7},
        "node": {"cores": 1, "numa_node": 9},
        "general is not configured": {"cores": 1, "pool": "general"},
    }
    said = {
        text: unit.fail("allocate-cores", service_name="a", **how) for text, how in refused.items()
    }
    assert {text: text in reason.lower() for text, reason in said.items()} == dict.fromkeys(
        refused, True
    ), said
    assert "format" in unit.fail("list-allocations", format="xml")
    assert unit.fail("list-allocations", service_name="a") == "service a holds no CPUs"
    assert unit.epa.owners() == {"nova": "2-3"}


@pytest.mark.long
def test_actions_that_look_say_what_the_snap_says(unit: Unit):
    unit.epa.allocate("nova", 2)
    unit.epa.ask(
        "allocate_hugepages",
        service_name="dpdk",
        hugepages_requested=1,
        node_id=0,
        size_kb=1048576,
    )
    pages = unit.act("list-hugepages")["hugepages"]
    assert "dpdk 1" in pages
    topology = unit.machine.run("epa-orchestrator topology").stdout.rstrip()
    assert unit.act("show-topology")["topology"] == topology
    assert "nova" in topology
    health = unit.act("health-check")
    assert (health["healthy"], health["snap-held"], health["snap-revision"]) == (
        "yes",
        "yes",
        "x1",
    )


@pytest.mark.long
def test_the_switch_of_open_vswitch_is_written_and_removed(unit: Unit):
    machine, switch = unit.machine, "/etc/openvswitch/enable_dynamic_cpu_affinity"
    unit.config["ovs-dynamic-cpu-affinity"] = True
    assert unit.run("config-changed").status == IDLE
    assert machine.read(switch)
    assert unit.act("show-ovs-affinity")["affinity"].startswith(f"switch {switch}: on")
    unit.config["ovs-dynamic-cpu-affinity"] = False
    assert unit.run("config-changed").status == IDLE
    assert machine.run(["test", "-e", switch], check=False).returncode == 1
    machine.run(["mkdir", "-p", "/etc/openvswitch"])
    machine.write(switch, "somebody else's")
    assert unit.run("config-changed").status == IDLE
    assert machine.read(switch) == b"somebody else's"


@pytest.mark.long
def test_refresh_and_restart_keep_every_claim(unit: Unit):
    unit.epa.allocate("nova", 2)
    before, pid = unit.changes(), unit.epa.pid()
    refreshed = unit.act("refresh-snap")
    assert refreshed["result"].startswith("locally installed snap: ")
    assert refreshed["allocations"].startswith("unchanged: 2/6 CPUs held by 1 service")
    assert (unit.changes(), unit.epa.pid()) == (before, pid)
    assert unit.act("restart-daemon")["result"] == "restarted"
    assert unit.epa.pid() != pid
    assert unit.epa.owners() == {"nova": "2-3"}


@pytest.mark.long
def test_clients_are_connected_when_they_appear_and_told_once(unit: Unit, tmp_path: Path):
    machine = unit.machine
    for name in (HYPERVISOR, "another"):
        ready.install(machine, charm_unit.client(name, tmp_path))
    before = unit.changes()
    assert unit.run("update-status").status == IDLE
    made = unit.changes()[len(before) :]
    assert [line.split()[0] for line in made] == ["Connect", "Change"]
    request = json.dumps({"version": "1.0", "action": "list_allocations"})
    assert '"allocations"' in machine.run(["snap", "run", f"{HYPERVISOR}.ask", request]).stdout
    triggers = f"/var/snap/{HYPERVISOR}/common/triggers"
    told = machine.read(triggers).decode().split()
    assert len(told) == 1
    assert machine.run(["snap", "run", "another.ask", request], check=False).returncode != 0
    unit.config["epa-info-plugs"] = f"{HYPERVISOR}:epa-info, another:epa-info"
    assert unit.run("config-changed").status == IDLE
    assert '"allocations"' in machine.run(["snap", "run", "another.ask", request]).stdout
    assert machine.run("snap get another configure-trigger", check=False).returncode != 0
    before = unit.changes()
    assert unit.run("update-status").status == IDLE
    assert unit.changes() == before
    assert machine.read(triggers).decode().split() == told
    for plugs, text in (
        ("another:nope", "blocked: epa-info-plugs: another has no plug nope"),
        ("another:network", "blocked: epa-info-plugs: another:network is no content plug"),
        ("absent:epa-info", IDLE),
    ):
        unit.config["epa-info-plugs"] = plugs
        assert unit.run("config-changed").status == text
    assert unit.changes() == before
