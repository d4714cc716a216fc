# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The packed charm on a real machine where something is wrong, old, or to be left behind."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import charm_files, charm_unit
from tests.integration.charm_unit import IDLE, Unit
from tests.integration.lab.template import Template
from tests.integration.orchestrator import SOCKET
from tests.integration.test_takeover import DATA, OLD_STATE

pytestmark = pytest.mark.long

OPTIONS = "snap get -d epa-orchestrator"
HELD = "active: 2/6 CPUs held by 1 service, 1G pages 0/2, 2M pages 0/64"
SERVICE = "snap.epa-orchestrator.daemon"


def test_a_bad_option_is_named_and_changes_nothing(unit: Unit):
    stored, before, good = unit.machine.run(OPTIONS).stdout, unit.changes(), dict(unit.config)
    for option, value, text in (
        ("cpu-pool", "all", "cpu-pool: 'all' is not a CPU list such as 2-7,12"),
        ("snap-channel", "a b", "snap-channel: 'a b' is not a channel such as 2024.1/stable"),
        ("epa-info-plugs", "x", "epa-info-plugs: 'x' is not of the form snap:plug"),
        (
            "policy-small-system-percent",
            0,
            "policy-small-system-percent: Input should be greater than or equal to 1",
        ),
    ):
        unit.config = good | {option: value}
        assert unit.run("config-changed").status == f"blocked: {text}"
    assert unit.changes() == before
    unit.config = good | {"cpu-pool": "2-3"}
    refused = unit.run("config-changed").status
    assert refused.startswith("blocked: cpu-pool refused: ")
    assert refused.endswith("General cpu-pool overlaps isolated CPUs: 2-3")
    assert unit.machine.run(OPTIONS).stdout == stored
    unit.config = good
    assert unit.run("config-changed").status == IDLE


def test_a_resource_that_is_not_this_snap_is_not_installed(unit: Unit):
    unit.resource = "/root/resource"
    before = unit.changes()
    unit.machine.write(unit.resource, "PK")
    text = "blocked: resource epa-orchestrator-snap is not a snap"
    assert unit.run("upgrade-charm").status == text
    unit.machine.run(f"cp /root/epa-consumer.snap {unit.resource}")
    text = "blocked: resource epa-orchestrator-snap is the snap epa-consumer, not epa-orchestrator"
    assert unit.run("upgrade-charm").status == text
    unit.machine.write(unit.resource, "")
    assert unit.run("upgrade-charm").status == IDLE
    assert unit.changes() == before


def test_a_store_that_cannot_be_reached_leaves_the_snap_as_it_is(unit: Unit):
    unit.epa.allocate("nova", 2)
    unit.config["snap-channel"] = "2024.1/stable"
    text = "waiting: the snap store cannot be reached (snap-channel '2024.1/stable')"
    assert unit.run("config-changed").status == text
    assert (unit.revision(), unit.notes()) == ("x1", "held")
    assert unit.epa.owners() == {"nova": "2-3"}
    unit.config["snap-channel"] = ""
    assert unit.run("config-changed").status == HELD


def test_an_install_from_a_store_that_cannot_be_reached_waits(fresh: Unit):
    fresh.config["snap-channel"] = "2024.1/stable"
    text = "waiting: the snap store cannot be reached (snap-channel '2024.1/stable')"
    assert fresh.run("install").status == text
    assert not fresh.is_installed()
    fresh.config["snap-channel"] = ""
    assert fresh.run("config-changed").status == IDLE


def test_without_snapd_it_says_so_and_goes_on_afterwards(unit: Unit):
    machine = unit.machine
    unit.epa.allocate("nova", 2)
    machine.run("systemctl stop snapd.socket snapd.service", timeout=120)
    text = "blocked: snapd is not running; start it: systemctl start snapd.socket"
    assert unit.run("update-status").status == text
    machine.run("systemctl start snapd.socket")
    assert unit.run("update-status").status == HELD
    assert unit.epa.owners() == {"nova": "2-3"}


@pytest.mark.parametrize(
    "deed", [f"systemctl kill -s KILL {SERVICE}", "snap stop --disable epa-orchestrator"]
)
def test_a_daemon_that_is_gone_is_brought_back_with_its_claims(unit: Unit, deed: str):
    unit.epa.allocate("nova", 2)
    unit.machine.run(deed, timeout=120)
    assert unit.run("update-status").status == HELD
    assert unit.epa.owners() == {"nova": "2-3"}
    assert unit.machine.run(f"systemctl is-enabled {SERVICE}").stdout.strip() == "enabled"


def test_a_state_that_cannot_be_read_is_shown_and_left_alone(unit: Unit):
    machine, old = unit.machine, f"{DATA}/state.json"
    unit.epa.allocate("nova", 2)
    machine.run("snap stop epa-orchestrator", timeout=120)
    machine.write(old, '{"allocations_db": 5}')
    machine.run("snap start epa-orchestrator", check=False, timeout=120)
    status = unit.run("update-status").status
    assert status.startswith("blocked: daemon cannot start: ")
    assert "state.json" in status
    code = machine.run(f"systemctl show -P ExecMainStatus {SERVICE}").stdout
    assert code.strip() == "78"
    assert "state.json" in unit.fail("list-allocations")
    assert machine.read(old).decode() == '{"allocations_db": 5}'
    machine.run(["rm", old])
    assert unit.act("restart-daemon")["allocation-state"] == HELD.removeprefix("active: ")
    assert unit.epa.owners() == {"nova": "2-3"}


def test_the_last_unit_takes_the_snap_along_when_nobody_holds_anything(unit: Unit):
    unit.run("stop")
    unit.run("remove")
    assert not unit.is_installed()
    assert unit.machine.run("test -e /opt/singleton_snaps", check=False).returncode == 1
    assert unit.machine.run(f"test -e {SOCKET}", check=False).returncode == 1


@pytest.mark.parametrize("reason", ["cpus", "hugepages", "tenant", "stopped"])
def test_removal_leaves_the_snap_to_those_who_need_it(unit: Unit, reason: str):
    other = "LCK..epa-orchestrator--revx1__ceph-epa_0"
    cpus = "nova holds isolated CPUs 2-3"
    words = {"cpus": cpus, "stopped": cpus, "hugepages": "dpdk holds 1 hugepages"}
    if reason == "cpus":
        unit.epa.allocate("nova", 2)
    elif reason == "hugepages":
        size = {"hugepages_requested": 1, "node_id": 0, "size_kb": 1048576}
        unit.epa.ask("allocate_hugepages", service_name="dpdk", **size)
    elif reason == "tenant":
        unit.machine.write(f"/opt/singleton_snaps/{other}", "")
    else:
        unit.epa.allocate("nova", 2)
        unit.machine.run("snap stop --disable epa-orchestrator", timeout=120)
    unit.run("stop")
    (said,) = [line for line in unit.run("remove").log if "the snap stays" in line]
    assert words.get(reason, "ceph-epa_0") in said
    assert unit.references() == ([other] if reason == "tenant" else [])
    assert unit.notes() == "held"
    unit.epa.ask("list_allocations")


@pytest.fixture
def deployed_unit(deployed_template: Template, charm: Path) -> Iterator[Unit]:
    """What is deployed today, on whose machine this charm is put."""
    with deployed_template.clone() as machine:
        charm_unit.place(machine, charm)
        yield Unit(machine)


def test_a_unit_may_stay_on_what_is_deployed_today(deployed_unit: Unit):
    unit = deployed_unit
    unit.resource = "/root/deployed.snap"
    unit.machine.run(f"cp /var/lib/snapd/snaps/epa-orchestrator_x1.snap {unit.resource}")
    unit.epa.allocate("nova", 2)
    assert unit.run("upgrade-charm").status == "active: 2/6 CPUs held by 1 service"
    assert (unit.revision(), unit.notes()) == ("x1", "held")
    before = unit.changes()
    assert unit.act("list-allocations")["allocations"].splitlines()[1].split()[:2] == [
        "nova",
        "isolated",
    ]
    assert unit.act("list-hugepages") == {"hugepages": "no hugepages on this host"}
    assert unit.act("refresh-snap")["allocations"].startswith("unchanged: 2/6")
    for action in ("health-check", "show-topology", "show-ovs-affinity"):
        assert unit.fail(action) == "needs a newer daemon"
    assert unit.act("release", service_name="nova") == {"cpus": "", "free-cpus": "6"}
    assert unit.changes() == before
    unit.config["cpu-pool"] = "0-1"
    assert unit.run("config-changed").status == "blocked: cpu-pool needs a newer daemon"
    assert unit.changes() == before
    unit.run("remove")
    assert not unit.is_installed()


def test_from_what_is_deployed_today_every_claim_is_kept(deployed_unit: Unit):
    unit = deployed_unit
    unit.machine.write(f"{DATA}/state.json", json.dumps(OLD_STATE))
    unit.machine.run("snap set epa-orchestrator cpu-pool=0-1 internal.validated-cpu-pool=0-1")
    taken = "active: 4/6 CPUs held by 2 services, general pool 2/2, 1G pages 1/2, 2M pages 0/64"
    assert unit.run("upgrade-charm").status == taken
    assert unit.epa.owners() == {"dpdk": "4-5", "nova": "2-3"}
    assert unit.epa.owners(pool="general") == {"ceph-osd.0": "0-1"}
    assert (unit.revision(), unit.notes()) == ("x2", "held")
    before = unit.changes()
    assert unit.run("config-changed").statuses == [taken]
    assert unit.act("refresh-snap")["revision"] == "x2"
    assert unit.changes() == before


def test_a_bundle_that_snapd_undoes_is_named_and_not_tried_again_by_update_status(
    unit: Unit, charm: Path, tmp_path: Path
):
    unit.epa.allocate("nova", 2)
    refused = charm_files.another_build(charm, tmp_path, refuses="cannot take over")
    unit.machine.put(refused, charm_unit.BUNDLE)
    text = "blocked: cannot install bundled snap: cannot take over"
    assert unit.run("upgrade-charm").status == text
    assert (unit.revision(), unit.notes()) == ("x1", "held")
    unit.epa.wait()
    before, pid = unit.changes(), unit.epa.pid()
    for _ in range(2):
        assert unit.run("update-status").statuses == [text]
    assert unit.fail("refresh-snap") == text.removeprefix("blocked: ")
    assert len(unit.changes()) == len(before) + 1
    unit.epa.wait()
    assert unit.epa.pid() != pid
    unit.machine.run("snap stop epa-orchestrator", timeout=120)
    assert unit.run("update-status").status == text
    assert unit.epa.owners() == {"nova": "2-3"}


def test_a_newer_charm_brings_its_daemon_and_keeps_claims(unit: Unit, charm: Path, tmp_path: Path):
    unit.epa.allocate("nova", 2)
    unit.machine.put(charm_files.another_build(charm, tmp_path), charm_unit.BUNDLE)
    outcome = unit.run("upgrade-charm")
    assert (outcome.status, outcome.version) == (HELD, "another")
    assert "INFO all 1 claims kept" in outcome.log
    assert (unit.revision(), unit.notes()) == ("x2", "held")
    assert unit.epa.owners() == {"nova": "2-3"}
    assert unit.references() == ["LCK..epa-orchestrator--revx2__epa-orchestrator_0"]
    before = unit.changes()
    assert unit.run("update-status").statuses == [HELD]
    assert unit.changes() == before
