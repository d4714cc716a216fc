# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Real Open vSwitch on a kernel with isolcpus, and the confined snap beside it.

The machine has CPUs 0-9, of which 0-3 are kept for the system and 4-9 are isolated.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import ovs_host
from tests.integration.lab.lab import Lab
from tests.integration.lab.template import Template
from tests.integration.ovs_host import SWITCH, OvsHost

DAEMON = "snap.epa-orchestrator.daemon"


@pytest.fixture(scope="session")
def ovs_template(lab: Lab, daemon_snap: Path) -> Template:
    return ovs_host.connected(lab, daemon_snap)


@pytest.fixture
def host(ovs_template: Template) -> Iterator[OvsHost]:
    with ovs_template.clone() as machine:
        yield OvsHost(machine)


def test_with_0_3_for_the_system_and_4_and_5_owned_both_daemons_get_0_3_and_6_9(host: OvsHost):
    reply = host.ask("allocate_cores", service_name="a", num_of_cores=2)
    assert reply["allocated_cores"] == "4-5"
    assert host.all_masks() == {"0-3"}
    host.switch("1")
    host.wait_for_masks("0-3,6-9")
    assert {name.split()[0] for name in host.masks()} == {"ovs-vswitchd", "ovsdb-server"}
    shown = host.machine.run("epa-orchestrator ovs").stdout
    assert f"switch {SWITCH}: on (followed by inotify); CPUs that nobody owns: 0-3,6-9" in shown
    assert host.health() == []
    host.ask("allocate_cores", service_name="a", num_of_cores=-1)
    host.wait_for_masks("0-9")


def test_the_switch_is_followed_without_a_restart(host: OvsHost):
    started = host.pid()
    for command, mask in (
        (f"echo 1 > {SWITCH}", "0-9"),
        (f": > {SWITCH}", "0-3"),
        (f"echo on > {SWITCH}", "0-9"),
        (f"rm {SWITCH}", "0-3"),
        (f"echo 1 > {SWITCH}", "0-9"),
        ("mv /etc/openvswitch /etc/elsewhere", "0-3"),
        ("mv /etc/elsewhere /etc/openvswitch", "0-9"),
    ):
        host.machine.run(command)
        host.wait_for_masks(mask)
    assert host.pid() == started


@pytest.mark.long
def test_a_folder_that_is_missing_at_the_start_is_noticed_when_it_comes(host: OvsHost):
    host.machine.run("mv /etc/openvswitch /etc/elsewhere; snap restart epa-orchestrator")
    host.wait()
    host.machine.run(f"mv /etc/elsewhere /etc/openvswitch; echo 1 > {SWITCH}")
    host.wait_for_masks("0-9")


@pytest.mark.parametrize("make", [f"mkdir {SWITCH}", f"echo 1 > /tmp/x; ln -s /tmp/x {SWITCH}"])
@pytest.mark.long
def test_a_switch_that_is_no_file_is_off_and_said_once(host: OvsHost, make: str):
    host.machine.run(make)
    host.wait_for(lambda: len(host.health()) == 1)
    time.sleep(1)
    assert host.all_masks() == {"0-3"}
    (said,) = host.health()
    assert host.log().count(said) == 1
    host.machine.run(f"rm -r {SWITCH}; echo 1 > {SWITCH}")
    host.wait_for_masks("0-9")
    assert host.health() == []


@pytest.mark.long
def test_open_vswitch_may_be_restarted_stopped_and_absent(host: OvsHost):
    host.switch("1")
    host.wait_for_masks("0-9")
    host.machine.run("systemctl restart openvswitch-switch")
    host.wait_for_masks("0-9")
    host.machine.run("systemctl stop openvswitch-switch")
    host.wait_for(lambda: host.masks() == {})
    host.ask("allocate_cores", service_name="a", num_of_cores=2)
    assert "no Open vSwitch daemon runs" in host.machine.run("epa-orchestrator ovs").stdout
    assert host.health() == []
    host.machine.run("systemctl start openvswitch-switch")
    host.wait_for_masks("0-3,6-9")
    host.switch("")
    host.wait_for_masks("0-3")


@pytest.mark.long
def test_what_was_found_is_put_back_after_a_kill_a_stop_and_a_removal(host: OvsHost):
    machine = host.machine
    (database,) = machine.run("pidof ovsdb-server").stdout.split()
    machine.run(f"taskset -pc 2 {database}")
    host.switch("1")
    host.wait_for_masks("0-9")
    machine.run(f"systemctl kill -s KILL {DAEMON}")
    host.wait()
    host.switch("")
    host.wait_for(lambda: host.all_masks() == {"0-3", "2"})
    host.switch("1")
    host.wait_for_masks("0-9")
    machine.run("snap stop epa-orchestrator", timeout=120)
    assert host.all_masks() == {"0-3", "2"}
    machine.run("snap start epa-orchestrator", timeout=120)
    host.wait()
    host.wait_for_masks("0-9")
    machine.run("snap remove epa-orchestrator", timeout=240)
    assert host.all_masks() == {"0-3", "2"}


def test_pmd_threads_of_a_second_instance_stay_bit_for_bit(host: OvsHost):
    host.second_instance()
    host.wait_for(lambda: len(pmd_masks(host)) > 0)
    before = pmd_masks(host)
    assert all(mask.isdecimal() for mask in before.values())
    host.switch("1")
    host.wait_for_masks("0-9")
    shown = {process["name"] for process in host.ask("get_ovs_affinity")["processes"]}
    assert shown == {"ovs-vswitchd", "ovsdb-server", "ovs-vswitchd monitor"}
    for count in (5, 3, 6, -1):
        host.ask("allocate_cores", service_name="a", num_of_cores=count)
    host.wait_for_masks("0-9")
    assert pmd_masks(host) == before
    host.switch("")
    host.wait_for_masks("0-3")
    assert pmd_masks(host) == before


def pmd_masks(host: OvsHost) -> dict[str, str]:
    processes = host.masks().values()
    return {n: mask for its in processes for n, mask in its.items() if n.startswith("pmd")}


@pytest.mark.long
def test_a_busy_handler_runs_on_an_idle_isolated_cpu_and_never_on_a_granted_one(host: OvsHost):
    host.switch("1")
    host.flood()
    host.wait_for(lambda: any(4 <= cpu <= 9 for cpu in host.busy_handlers()), 30)
    done = host.guest("grants", "200", timeout=500)
    assert done["left"] == []
    assert done["taken_from_under"] >= 10, done


@pytest.mark.long
def test_a_process_in_a_cpuset_that_forbids_free_cpus_is_left_alone(host: OvsHost):
    host.machine.run("systemctl set-property --runtime ovsdb-server.service AllowedCPUs=0-1")
    host.switch("1")
    host.wait_for(lambda: host.all_masks() == {"0-9", "0-1"})
    time.sleep(2)
    assert host.all_masks() == {"0-9", "0-1"}
    assert host.health() == []
    assert "left alone" in host.machine.run("epa-orchestrator ovs").stdout


@pytest.mark.long
def test_a_cpuset_that_comes_later_takes_the_process_back_to_what_it_had(host: OvsHost):
    host.switch("1")
    host.flood()
    host.wait_for(lambda: any(4 <= cpu <= 9 for cpu in host.busy_handlers()), 30)
    limit = "systemctl set-property --runtime ovs-vswitchd.service AllowedCPUs="
    host.machine.run(f"{limit}0-6")
    host.wait_for(lambda: host.all_masks() == {"0-9", "0-3"})
    host.ask("allocate_cores", service_name="a", num_of_cores=2)
    host.wait_for(lambda: host.all_masks() == {"0-3,6-9", "0-3"})
    assert host.health() == []
    host.machine.run(f"{limit}0-9")
    # It is tried again only every 48 s.
    host.wait_for(lambda: "0-3" not in host.all_masks(), 70)
    host.switch("")
    host.wait_for_masks("0-3")


@pytest.mark.long
def test_cpus_that_go_offline_and_come_back_are_followed(host: OvsHost):
    host.switch("1")
    host.wait_for_masks("0-9")
    online = "/sys/devices/system/cpu/cpu9/online"
    # Looks come every 0.8 s, and hit the change sooner or later in one of its moments.
    host.machine.run(
        f"for n in $(seq 40); do echo 0 >{online}; sleep 0.13; echo 1 >{online}; sleep 0.1; done",
        timeout=120,
    )
    host.machine.write(online, "0")
    host.wait_for_masks("0-8")
    host.machine.write(online, "1")
    host.wait_for_masks("0-9")
    assert "left alone" not in host.log()
    assert host.health() == []


@pytest.mark.long
def test_no_thread_is_left_on_a_granted_cpu_while_the_main_thread_is_busy(host: OvsHost):
    host.switch("1")
    host.keep_main_thread_busy()
    host.wait_for(lambda: host.guest("main") > 0.5, 30)
    done = host.guest("grants", "60", timeout=300)
    print("slowest reply:", done["slowest"])
    assert host.guest("main") > 0.5
    assert done["left"] == []


@pytest.mark.parametrize("plug", ["process-control", "etc-openvswitch"])
@pytest.mark.long
def test_without_a_plug_it_is_said_once_and_cpus_are_granted(host: OvsHost, plug: str):
    machine = host.machine
    machine.run(f"snap disconnect epa-orchestrator:{plug}", timeout=120)
    machine.run("snap restart epa-orchestrator", timeout=120)
    host.wait()
    assert host.health() == []
    host.switch("1")
    host.wait_for(lambda: len(host.health()) == 1)
    time.sleep(2)
    (said,) = host.health()
    assert f"snap connect epa-orchestrator:{plug}" in said
    assert host.log().count(said) == 1
    reply = host.ask("allocate_cores", service_name="a", num_of_cores=2)
    assert reply["allocated_cores"] == "4-5"
    assert host.all_masks() == {"0-3"}
    machine.run(f"snap connect epa-orchestrator:{plug}", timeout=120)
    if plug == "process-control":
        machine.run("snap restart epa-orchestrator", timeout=120)
    host.wait_for_masks("0-3,6-9")
    assert host.health() == []


def test_while_it_is_off_the_daemon_does_not_wake_up(host: OvsHost):
    def switches() -> str:
        return host.machine.run(f"grep ctxt /proc/{host.pid()}/task/*/status").stdout

    host.health()
    time.sleep(1)
    before = switches()
    # Open vSwitch keeps its database in the folder that is watched.
    host.machine.run("ovs-vsctl set Open_vSwitch . external_ids:a=b")
    time.sleep(10)
    assert switches() == before
