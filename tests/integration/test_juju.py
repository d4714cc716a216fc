# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The charm under a real Juju. Needs a controller with machines; skips, with the reason, without.

    pytest tests/integration/test_juju.py
    pytest tests/integration/test_juju.py --principal ch:sunbeam-machine \
        --principal-channel 2024.1/stable

The tests build on each other in their order. No isolated CPU is needed: grants come from a general
pool of one ordinary CPU, which works in any machine and container.
"""

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jubilant
import pytest

from tests.integration import charm_files

APP = "epa-orchestrator"
PRINCIPAL = "principal"
KEEPER = "keeper"
RESOURCE = "epa-orchestrator-snap"
REFERENCES = "/opt/singleton_snaps/LCK..epa-orchestrator*"
ENDPOINT = "sunbeam-machine"
SOCKET = "/var/snap/epa-orchestrator/current/data/epa.sock"
SLOW = 1800.0
SOON = 600.0

ASK = f"""
import json, socket, sys, time
for attempt in range(60):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30)
    try:
        s.connect({SOCKET!r})
        break
    except (FileNotFoundError, ConnectionRefusedError):
        time.sleep(1)  # The machine has just booted.
s.sendall(sys.argv[1].encode())
reply = b""
while chunk := s.recv(65536):
    reply += chunk
print(reply.decode())
"""


def _why_not() -> str | None:
    if shutil.which("juju") is None:
        return "there is no juju command"
    shown = subprocess.run(
        ["juju", "show-controller"], capture_output=True, text=True, check=False
    )
    return f"no controller: {shown.stderr.strip()}" if shown.returncode else None


WHY_NOT = _why_not()
if WHY_NOT:
    pytest.skip(WHY_NOT, allow_module_level=True)


@pytest.fixture(scope="module")
def charm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return charm_files.packed_charm(tmp_path_factory.mktemp("charm"))


@pytest.fixture(scope="module")
def another(charm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snap to attach: the one in the charm with the version `another`."""
    for tool in ("unsquashfs", "mksquashfs"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool}: apt-get install squashfs-tools")
    return charm_files.another_build(charm, tmp_path_factory.mktemp("another"))


def settled(
    juju: jubilant.Juju, units: int = 1, charm_rev: int | None = None, version: str | None = None
) -> jubilant.Status:
    """Wait until all units are active, every agent has come to rest, and there is what is asked.

    Args:
        units: how many of the charm.
        charm_rev: Juju's number of the charm that every unit must run.
        version: of the workload.
    """

    def ready(status: jubilant.Status) -> bool:
        there = status.get_units(APP)
        return (
            len(there) == units
            and charm_rev in (None, status.apps[APP].charm_rev)
            and not any(unit.upgrading_from for unit in there.values())
            and version in (None, status.apps[APP].version)
            and jubilant.all_active(status, APP, PRINCIPAL)
            and jubilant.all_agents_idle(status, APP, PRINCIPAL)
        )

    def broken(status: jubilant.Status) -> bool:
        return jubilant.any_error(status, APP, PRINCIPAL)

    return juju.wait(ready, error=broken, timeout=SLOW, delay=5)


def refresh(juju: jubilant.Juju, charm: Path, **more: Any) -> int:
    """Refresh the charm; returns the number that Juju gives the new one."""
    before = juju.status().apps[APP].charm_rev
    juju.refresh(APP, path=charm, **more)
    after = juju.status().apps[APP].charm_rev
    assert after > before, "a local charm gets a new number each time"
    return after


def installed(juju: jubilant.Juju, unit: str) -> tuple[str, str]:
    """Version and revision of the snap."""
    words = juju.exec("snap list epa-orchestrator", unit=unit).stdout.splitlines()[1].split()
    return words[1], words[2]


def unit_of(juju: jubilant.Juju) -> str:
    return sorted(juju.status().get_units(APP))[0]


def message_of(juju: jubilant.Juju, unit: str) -> str:
    return juju.status().get_units(APP)[unit].workload_status.message


def wait_for_status(juju: jubilant.Juju, kind: str, text: str) -> None:
    def ready(status: jubilant.Status) -> bool:
        found = [unit.workload_status for unit in status.get_units(APP).values()]
        return bool(found) and all(s.current == kind and text in s.message for s in found)

    juju.wait(ready, timeout=SOON, delay=5)


def ask(juju: jubilant.Juju, unit: str, action: str, **fields: Any) -> dict[str, Any]:
    """One request to the daemon itself, over its socket, on the unit's machine."""
    request = json.dumps({"version": "1.0", "action": action, **fields})
    command = f"python3 -c {shlex.quote(ASK)} {shlex.quote(request)}"
    return json.loads(juju.exec(command, unit=unit).stdout)


def ordinary_cpu(juju: jubilant.Juju, unit: str) -> str:
    """The first CPU that is online and not isolated."""
    folder = "/sys/devices/system/cpu"
    text = juju.exec(f"cat {folder}/online; echo /; cat {folder}/isolated", unit=unit).stdout
    online, isolated = (_cpus(part) for part in text.split("/"))
    return str(min(online - isolated))


def _cpus(text: str) -> set[int]:
    ends = [part.split("-") for part in text.strip().split(",") if part]
    return {cpu for part in ends for cpu in range(int(part[0]), int(part[-1]) + 1)}


@pytest.mark.juju_setup
def test_deployed_beside_its_principal_it_becomes_active(
    juju: jubilant.Juju, charm: Path, pytestconfig: pytest.Config, tmp_path: Path
):
    principal = pytestconfig.getoption("--principal")
    channel = pytestconfig.getoption("--principal-channel")
    if principal:
        juju.deploy(principal, PRINCIPAL, channel=channel)
    else:
        juju.deploy(charm_files.principal_charm(tmp_path), PRINCIPAL, base="ubuntu@24.04")
    juju.deploy(charm, APP)
    juju.integrate(f"{APP}:{ENDPOINT}", f"{PRINCIPAL}:{ENDPOINT}")
    settled(juju)


def test_the_status_shows_the_allocation_state(juju: jubilant.Juju):
    message = message_of(juju, unit_of(juju))
    assert "CPUs held" in message or message.startswith("no isolated CPUs")
    assert juju.status().apps[APP].version


def test_the_snap_is_held_and_connected(juju: jubilant.Juju):
    unit = unit_of(juju)
    assert "held" in juju.exec("snap list epa-orchestrator", unit=unit).stdout
    lines = juju.exec("snap connections epa-orchestrator", unit=unit).stdout.splitlines()[1:]
    slots = {line.split()[1].partition(":")[2]: line.split()[2] for line in lines}
    for plug in ("network-bind", "hardware-observe", "process-control", "etc-openvswitch"):
        assert slots[plug] != "-", plug


def test_health_check_and_topology_answer(juju: jubilant.Juju):
    unit = unit_of(juju)
    assert juju.run(unit, "health-check", wait=120).results["healthy"] == "yes"
    assert "NODE" in juju.run(unit, "show-topology", wait=120).results["topology"]
    assert "hugepages" in juju.run(unit, "list-hugepages", wait=120).results


def test_a_general_pool_can_be_set_and_granted_from(juju: jubilant.Juju):
    unit = unit_of(juju)
    cpu = ordinary_cpu(juju, unit)
    juju.config(APP, {"cpu-pool": cpu})
    wait_for_status(juju, "active", "general pool 0/1")
    settled(juju)
    results = juju.run(
        unit, "allocate-cores", {"service-name": "test", "cores": 1, "pool": "general"}, wait=120
    ).results
    assert str(results["cpus"]) == cpu
    wait_for_status(juju, "active", "general pool 1/1")
    listing = ask(juju, unit, "list_allocations", pool="general")
    assert [entry["service_name"] for entry in listing["allocations"]] == ["test"]
    table = juju.run(unit, "list-allocations", wait=120).results["allocations"]
    assert "test" in table


def test_a_reboot_keeps_the_claims(juju: jubilant.Juju):
    unit = unit_of(juju)
    juju.exec("touch /run/epa-before-reboot", unit=unit)
    # In a moment, so that this command itself is answered.
    juju.exec("systemd-run --on-active=5 systemctl reboot", unit=unit)

    def rebooted(_: jubilant.Status) -> bool:
        try:
            gone = juju.exec("test ! -e /run/epa-before-reboot", unit=unit, wait=60)
        except (jubilant.TaskError, jubilant.CLIError, TimeoutError, ValueError):
            return False
        return gone.success

    juju.wait(rebooted, timeout=SLOW, delay=15, successes=1)
    settled(juju)
    listing = ask(juju, unit, "list_allocations", pool="general")
    assert [entry["service_name"] for entry in listing["allocations"]] == ["test"]


def test_a_charm_refresh_keeps_the_claims(juju: jubilant.Juju, charm: Path):
    before = installed(juju, unit_of(juju))
    settled(juju, charm_rev=refresh(juju, charm))
    # The same bundle: nothing to install.
    assert installed(juju, unit_of(juju)) == before
    assert "general pool 1/1" in message_of(juju, unit_of(juju))


def test_an_attached_snap_replaces_the_bundled_one(
    juju: jubilant.Juju, charm: Path, another: Path
):
    unit = unit_of(juju)
    _, before = installed(juju, unit)
    # Not attach-resource: jubilant puts files where a confined juju finds them for refresh alone.
    new = refresh(juju, charm, resources={RESOURCE: str(another)})
    settled(juju, charm_rev=new, version="another")
    version, revision = installed(juju, unit)
    assert version == "another"
    assert revision != before
    assert "general pool 1/1" in message_of(juju, unit)
    listing = ask(juju, unit, "list_allocations", pool="general")
    assert [entry["service_name"] for entry in listing["allocations"]] == ["test"]


def test_refresh_snap_succeeds_and_changes_nothing(juju: jubilant.Juju):
    task = juju.run(unit_of(juju), "refresh-snap", wait=600)
    assert task.status == "completed"
    assert "locally installed" in task.results["result"]
    assert task.results["allocations"].startswith("unchanged")


def test_restart_daemon_keeps_the_claims(juju: jubilant.Juju):
    task = juju.run(unit_of(juju), "restart-daemon", wait=120)
    assert "general pool 1/1" in task.results["allocation-state"]


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("cpu-pool", "all", "cpu-pool: 'all' is not a CPU list"),
        ("policy-small-system-percent", "101", "policy-small-system-percent: "),
        ("epa-info-plugs", "nonsense", "epa-info-plugs: 'nonsense'"),
    ],
)
def test_a_bad_option_blocks_and_heals(juju: jubilant.Juju, option: str, value: str, text: str):
    before = juju.config(APP)
    juju.config(APP, {option: value})
    wait_for_status(juju, "blocked", text)
    if option in before:
        juju.config(APP, {option: before[option]})
    else:
        juju.config(APP, reset=option)
    settled(juju)


def test_bad_parameters_fail_the_action(juju: jubilant.Juju):
    with pytest.raises(jubilant.TaskError) as caught:
        juju.run(unit_of(juju), "release", {"service-name": "nobody"}, wait=120)
    assert "service nobody holds no CPUs" in caught.value.task.message


def test_an_empty_resource_brings_the_bundled_one_back(
    juju: jubilant.Juju, charm: Path, tmp_path: Path
):
    none = tmp_path / "none.snap"
    none.touch()
    unit = unit_of(juju)
    assert installed(juju, unit)[0] == "another"
    settled(juju, charm_rev=refresh(juju, charm, resources={RESOURCE: str(none)}))
    assert installed(juju, unit)[0] != "another"
    assert "general pool 1/1" in message_of(juju, unit)


def test_two_units_work_and_one_leaves_its_machine_cleanly(juju: jubilant.Juju, tmp_path: Path):
    # Its machine would go with the unit if nobody else lived there.
    juju.deploy(charm_files.principal_charm(tmp_path), KEEPER, base="ubuntu@24.04")
    juju.wait(lambda status: jubilant.all_active(status, KEEPER), timeout=SLOW, delay=5)
    (keeper,) = juju.status().apps[KEEPER].units.values()
    juju.add_unit(PRINCIPAL, to=keeper.machine)
    status = settled(juju, units=2)
    on_machine = {
        name: unit
        for name, unit in status.apps[PRINCIPAL].units.items()
        if unit.machine == keeper.machine
    }
    ((principal, unit),) = on_machine.items()
    (ours,) = unit.subordinates
    assert juju.exec(f"ls {REFERENCES}", unit=ours).stdout.strip().endswith(ours.replace("/", "_"))
    juju.remove_unit(principal)
    settled(juju, units=1)
    assert leftovers(juju, keeper.machine) == []


def test_removal_with_claims_leaves_the_snap_running(juju: jubilant.Juju):
    machine = next(iter(juju.status().apps[PRINCIPAL].units.values())).machine
    juju.remove_application(APP)
    juju.wait(lambda status: APP not in status.apps, timeout=SOON, delay=5)
    assert "held" in juju.exec("snap list epa-orchestrator", machine=machine).stdout
    services = juju.exec("snap services epa-orchestrator", machine=machine).stdout
    assert services.splitlines()[1].split()[2] == "active"
    assert not juju.exec(f"ls {REFERENCES} || true", machine=machine).stdout.strip()


def test_deployed_again_with_a_resource_and_removed_without_claims(
    juju: jubilant.Juju, charm: Path, another: Path
):
    machine = next(iter(juju.status().apps[PRINCIPAL].units.values())).machine
    juju.deploy(charm, APP, resources={RESOURCE: str(another)})
    juju.integrate(f"{APP}:{ENDPOINT}", f"{PRINCIPAL}:{ENDPOINT}")
    settled(juju, version="another")
    unit = unit_of(juju)
    assert "general pool 1/1" in message_of(juju, unit)
    juju.run(unit, "release", {"service-name": "test", "pool": "general"}, wait=120)
    wait_for_status(juju, "active", "general pool 0/1")
    juju.remove_application(APP)
    juju.wait(lambda status: APP not in status.apps, timeout=SOON, delay=5)
    assert leftovers(juju, machine) == []


def leftovers(juju: jubilant.Juju, machine: str) -> list[str]:
    """What the charm has left on a machine; [] where nothing should be."""
    paths = f"/snap/epa-orchestrator/current {REFERENCES} {SOCKET}"
    text = juju.exec(f"ls -d {paths} 2>/dev/null || true", machine=machine).stdout
    return text.split()
