# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What the charm reads and does, with the real daemon in place of a stand-in."""

import pytest
from charms.epa_orchestrator.v0 import epa_client

import actions
import daemon as daemon_room
import epa_snap
import errors
import models
import removal
import snapd
import status
from epa_snap import check
from tests.functional.daemons import Daemon


@pytest.fixture(autouse=True)
def connected(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The charm's client talks to this daemon; snapd is not asked."""
    ask = epa_client.EpaClient(str(daemon.socket_path), 10)
    monkeypatch.setattr(daemon_room, "client", lambda: ask)
    monkeypatch.setattr(epa_snap, "installed", lambda: epa_snap.Installed("x1", "0.1.0", "", True))
    monkeypatch.setattr(epa_snap, "check", list[str])
    ask.allocate_cores("openstack-hypervisor")
    ask.allocate_numa_cores("ovs-dpdk-datapath", 0, 2)
    ask.allocate_numa_cores("ceph-osd.0", 1, 1, pool="general", preemption_policy="non-preemptive")
    ask.allocate_hugepages("ovs-dpdk-hugepages", 1, 0, 1048576)


def test_the_status_counts_what_the_daemon_says():
    assert status.allocation_state(daemon_room.look()) == (
        "9/12 CPUs held by 2 services, general pool 1/4, 1G pages 1/3, 2M pages 0/64"
    )


def test_the_tables_show_what_the_daemon_says():
    table = actions.list_allocations(models.ListAllocationsParams())["allocations"]
    assert table.splitlines() == [
        "SERVICE               POOL      CPUS       COUNT  POLICY          CLAIM",
        "openstack-hypervisor  isolated  4-7,10-12  7      legacy          count",
        "ovs-dpdk-datapath     isolated  2-3        2      legacy          NUMA",
        "ceph-osd.0            general   8          1      non-preemptive  NUMA",
    ]
    assert actions.list_hugepages()["hugepages"].splitlines()[2] == (
        "0     1G    1      0     ovs-dpdk-hugepages 1"
    )


@pytest.mark.parametrize(
    "amount",
    [{"cores": 1}, {"percent": 5}, {"cores": 1, "numa_node": 1}, {"cores": 1, "pool": "general"}],
)
def test_what_is_allocated_is_held_until_it_is_released(amount: dict[str, int | str]):
    make = models.AllocateCoresParams.model_validate
    results = actions.allocate_cores(make({"service_name": "new", **amount}))
    assert results["cpus"]
    pool = amount.get("pool", "isolated")
    params = models.ReleaseParams.model_validate({"service_name": "new", "pool": pool})
    assert actions.release(params)["cpus"] == ""


def test_a_healthy_daemon_is_healthy():
    results, problems = actions.health_check()
    assert results["healthy"] == "yes"
    assert problems == daemon_room.problems(daemon_room.look()) == []


def test_a_refusal_is_the_daemons_sentence():
    with pytest.raises(errors.ActionFailed, match="Insufficient CPUs available"):
        actions.allocate_cores(models.AllocateCoresParams(service_name="new", cores=99))


def test_general_claims_are_found_when_their_pool_is_no_more(daemon: Daemon):
    """As after a `snap revert`, which restores the options of an older revision."""
    daemon.stop()
    daemon.cpu_pool = ""
    daemon.start()
    holdings = daemon_room.look()
    assert holdings.owners("general") == ["ceph-osd.0"]
    assert "general" not in holdings.pools
    assert "ceph-osd.0 holds general CPUs 8" in (removal.why_it_stays([]) or "")
    assert "no longer in pool general" in daemon_room.problems(holdings)[0]
    with pytest.raises(errors.ActionFailed, match="general is not configured"):
        actions.release(models.ReleaseParams(service_name="ceph-osd.0", pool="general"))


def test_a_release_in_a_node_that_gives_nothing_back_fails():
    name = "ovs-dpdk-datapath"
    with pytest.raises(errors.ActionFailed, match="in NUMA node 1"):
        actions.release(models.ReleaseParams(service_name=name, numa_node=1))
    released = actions.release(models.ReleaseParams(service_name=name, numa_node=0))
    assert released["cpus"] == ""


@pytest.mark.parametrize(
    ("pool", "state", "reasons"),
    [
        ("0-3", "", 0),  # It overlaps the isolated ones; the daemon starts without a general pool.
        ("0-1", "{broken", 1),
    ],
)
def test_a_check_gives_only_what_keeps_the_daemon_from_starting(
    pool: str, state: str, reasons: int, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
):
    daemon.stop()
    daemon.cpu_pool = pool
    if state:
        (daemon.data / "state.json").write_text(state)

    def run(*_: str, seconds: float) -> str:
        raise snapd.CommandFailed("exit 78", daemon.run("--check", "--format", "json").stdout)

    monkeypatch.setattr(snapd, "run", run)
    monkeypatch.setattr(epa_snap, "services", lambda: {epa_snap.PEOPLES_COMMAND: False})
    assert len(check()) == reasons
    if not reasons:
        daemon.start()
        assert daemon.answers()


def test_a_stopped_daemon_is_silent(daemon: Daemon):
    daemon.stop()
    with pytest.raises(errors.DaemonSilent, match="no daemon listens"):
        daemon_room.look()
