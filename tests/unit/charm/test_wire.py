# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The client library and the charm against the replies of the daemon that is deployed today.

They come over a real socket, byte by byte as it sends them: one reply, and the connection is
closed.
"""

import json
import pathlib
import socketserver
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from charms.epa_orchestrator.v0 import epa_client

import actions
import daemon
import epa_snap
import errors
import models
import removal
import status

LISTING = (
    '{"version":"1.0","total_allocations":2,"total_allocated_cpus":5,"total_available_cpus":12,'
    '"remaining_available_cpus":7,"allocations":[{"service_name":"openstack-hypervisor",'
    '"allocated_cores":"2-4","cores_count":3,"is_explicit":false},{"service_name":'
    '"ovs-dpdk-datapath","allocated_cores":"8-9","cores_count":2,"is_explicit":true}]}'
)
MEMORY = (
    '{"version":"1.0","service_name":"","numa_hugepages":{"node0":{"capacity":[{"total":16,'
    '"free":12,"size":1048576}],"allocations":{"ovs-dpdk-hugepages":{"1048576":4}}}}}'
)
RELEASED = (
    '{"version":"1.0","service_name":"openstack-hypervisor","num_of_cores":0,"cores_allocated":0,'
    '"allocated_cores":"","shared_cpus":"2-7,10-13","total_available_cpus":12,'
    '"remaining_available_cpus":10}'
)
NUMA_RELEASED = (
    '{"version":"1.0","service_name":"ovs-dpdk-datapath","numa_node":1,"num_of_cores":-1,'
    '"cores_allocated":"","total_available_cpus":12,"remaining_available_cpus":9}'
)
GRANTED = (
    '{"version":"1.0","service_name":"trex","num_of_cores":2,"cores_allocated":2,'
    '"allocated_cores":"5-6","shared_cpus":"7,10-13","total_available_cpus":12,'
    '"remaining_available_cpus":5}'
)
NO_CPUS = '{"version":"1.0","error":"No CPUs available: No Isolated CPUs configured"}'
UNKNOWN = '{"version":"1.0","error":"Unknown action: get_health"}'
REPLIES = {
    ("list_allocations", None): LISTING,
    ("get_memory_info", None): MEMORY,
    ("allocate_cores", -1): RELEASED,
    ("allocate_cores", 2): GRANTED,
    ("allocate_cores", 0): NO_CPUS,
    ("allocate_numa_cores", -1): NUMA_RELEASED,
    ("get_health", None): UNKNOWN,
}


class Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        # One recv: it takes what comes first for the whole request.
        request: dict[str, Any] = json.loads(self.request.recv(4096))
        server: Any = self.server
        server.requests.append(request)
        reply = server.replies[request["action"], request.get("num_of_cores")]
        self.request.sendall(reply.encode())


class Deployed(socketserver.UnixStreamServer):
    def __init__(self, path: str):
        super().__init__(path, Handler)
        self.replies = dict(REPLIES)
        self.requests: list[dict[str, Any]] = []


@pytest.fixture
def deployed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployed]:
    path = str(tmp_path / "epa.sock")
    monkeypatch.setattr(daemon, "client", lambda: epa_client.EpaClient(path, 10))
    monkeypatch.setattr(epa_snap, "installed", lambda: epa_snap.Installed("8", "1", "a/b", True))
    with Deployed(path) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_its_listing_is_the_status(deployed: Deployed):
    holdings = daemon.look()
    assert status.allocation_state(holdings) == "5/12 CPUs held by 2 services, 1G pages 4/16"
    assert holdings.sentences == [
        "openstack-hypervisor holds isolated CPUs 2-4",
        "ovs-dpdk-datapath holds isolated CPUs 8-9",
        "ovs-dpdk-hugepages holds 4 hugepages of 1048576 kB on node 0",
    ]
    assert daemon.problems(holdings) == []
    assert [request["action"] for request in deployed.requests] == [
        "list_allocations",
        "get_memory_info",
    ]
    assert not any("pool" in request for request in deployed.requests)


def test_its_listing_is_a_table(deployed: Deployed):
    table = actions.list_allocations(models.ListAllocationsParams())["allocations"]
    assert table.splitlines()[1:] == [
        "openstack-hypervisor  isolated  2-4   3      legacy  count",
        "ovs-dpdk-datapath     isolated  8-9   2      legacy  NUMA",
    ]
    pages = actions.list_hugepages()["hugepages"]
    assert pages.splitlines()[1].split(maxsplit=4) == [
        *("0", "1G", "16", "12"),
        "ovs-dpdk-hugepages 4",
    ]


def test_it_releases_and_grants(deployed: Deployed):
    released = actions.release(models.ReleaseParams(service_name="openstack-hypervisor"))
    assert released["free-cpus"] == "10"
    granted = actions.allocate_cores(models.AllocateCoresParams(service_name="trex", cores=2))
    assert granted == {"cpus": "5-6", "free-cpus": "5"}
    sent = [request for request in deployed.requests if request["action"] == "allocate_cores"]
    assert all(set(request) <= {*sent[0]} for request in sent)
    assert set(sent[0]) == {"version", "action", "service_name", "num_of_cores"}


def test_a_node_that_gave_nothing_back_is_a_failure(deployed: Deployed):
    with pytest.raises(errors.ActionFailed, match="in NUMA node 1"):
        actions.release(models.ReleaseParams(service_name="ovs-dpdk-datapath", numa_node=1))


def test_what_it_holds_keeps_the_snap(deployed: Deployed):
    reason = removal.why_it_stays([])
    assert reason is not None
    assert "openstack-hypervisor holds isolated CPUs 2-4" in reason


def test_a_refusal_has_its_sentence_and_no_code(deployed: Deployed):
    with pytest.raises(epa_client.Refused) as caught:
        daemon.client().allocate_cores("a")
    assert (caught.value.text, caught.value.code) == (
        "No CPUs available: No Isolated CPUs configured",
        "",
    )
    with pytest.raises(errors.ActionFailed, match="needs a newer daemon"):
        actions.health_check()
    with pytest.raises(epa_client.Refused, match="Unknown action: get_health"):
        daemon.client().get_health()


def test_a_connection_that_is_to_be_kept_is_made_anew_each_time(deployed: Deployed):
    with daemon.client() as kept:
        for _ in range(3):
            assert kept.list_allocations() == json.loads(LISTING)
    assert [request.get("keep_alive") for request in deployed.requests] == [True] * 3


def test_an_uncertain_state_blocks_with_its_sentence(deployed: Deployed):
    deployed.replies["list_allocations", None] = (
        '{"version":"1.0","error":"Allocation state is uncertain"}'
    )
    with pytest.raises(errors.NeedsOperator, match="the daemon refuses: Allocation state is unc"):
        daemon.look()


def test_hugepages_that_it_cannot_read_are_a_problem_and_no_silence(deployed: Deployed):
    deployed.replies["get_memory_info", None] = '{"version":"1.0","error":"no NUMA"}'
    assert daemon.look().pages_problem == "no NUMA"


@pytest.mark.parametrize("reply", ["", '{"version":"1.0","allocations":[', "[]", "{}"])
def test_an_empty_truncated_or_odd_reply_is_silence(reply: str, deployed: Deployed):
    deployed.replies["list_allocations", None] = reply
    with pytest.raises(errors.DaemonSilent):
        daemon.look()
