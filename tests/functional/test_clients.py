# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The conversations of the clients of today, with their way of using the socket."""

import json
import socket
import threading
from typing import Any

import pytest
from charms.epa_orchestrator.v0 import epa_client

from tests.functional.daemons import Daemon, Reply, read_to_end


def one_recv(daemon: Daemon, request: Reply) -> Reply:
    """The openstack-hypervisor snap and charm: one sendall, one recv(4096), no half-close."""
    with daemon.connect() as connection:
        connection.sendall(json.dumps(request).encode())
        return json.loads(connection.recv(4096))


def to_the_end(daemon: Daemon, request: Reply) -> Reply:
    """The Ceph charm: read until the daemon closes."""
    return json.loads(daemon.raw(json.dumps(request).encode()))


def test_the_hypervisor_snap(daemon: Daemon):
    request = {
        "version": "1.0",
        "action": "allocate_cores",
        "service_name": "openstack-hypervisor",
        "num_of_cores": 0,
        "numa_node": None,
    }
    reply = one_recv(daemon, request)
    assert reply["version"] == "1.0"
    assert (reply["allocated_cores"], reply["shared_cpus"]) == ("2-7,10-12", "13-15")
    assert one_recv(daemon, request) == reply
    request = {
        "version": "1.0",
        "action": "allocate_cores_percent",
        "service_name": "openstack-hypervisor",
        "percent": 50,
    }
    assert one_recv(daemon, request)["allocated_cores"] == "2-7"


def dpdk_charm(daemon: Daemon, cores: int, pages: int) -> list[str]:
    """One configure of the OVS-DPDK charm on two nodes; any error would abort its hook."""
    granted: list[str] = []
    for node in (0, 1):
        steps: list[Reply] = [
            {
                "action": "allocate_hugepages",
                "service_name": "ovs-dpdk-hugepages",
                "hugepages_requested": pages,
                "node_id": node,
                "size_kb": 1048576,
            }
        ]
        steps += [
            {
                "action": "allocate_numa_cores",
                "service_name": service,
                "numa_node": node,
                "num_of_cores": cores,
            }
            for service in ("ovs-dpdk-control-plane", "ovs-dpdk-datapath")
        ]
        for step in steps:
            reply = one_recv(daemon, {"version": "1.0", **step})
            assert "error" not in reply, reply
            granted.append(reply.get("cores_allocated", ""))
    return [cpus for cpus in granted if cpus]


def test_the_dpdk_charm_takes_from_the_hypervisor(daemon: Daemon):
    assert dpdk_charm(daemon, cores=-1, pages=-1) == []
    daemon.ask("allocate_cores", service_name="openstack-hypervisor")
    granted = dpdk_charm(daemon, cores=2, pages=1)
    assert granted == ["2-3", "4-5", "14-15", "12-13"]
    assert dpdk_charm(daemon, cores=2, pages=1) == granted
    assert daemon.owners()["openstack-hypervisor"] == "6-7,10-11"
    assert dpdk_charm(daemon, cores=-1, pages=-1) == []
    assert list(daemon.owners()) == ["openstack-hypervisor"]


def ceph_request(**fields: Any) -> Reply:
    return {
        "version": "1.0",
        "pool": "general",
        "preemption_policy": "non-preemptive",
        **fields,
    }


def test_the_ceph_charm(daemon: Daemon):
    discovery = to_the_end(daemon, {"version": "1.0", "action": "list_allocations"})
    assert {"non-preemptive-allocations", "cpu-pools"} <= set(discovery["supported_cpu_features"])
    assert discovery["cpu_pool"]["configured_cpus"] == "2-7,10-15"
    for osd, node in ((0, 0), (1, 1)):
        request = ceph_request(
            action="allocate_numa_cores",
            service_name=f"ceph-osd.{osd}",
            numa_node=node,
            num_of_cores=1,
        )
        reply = to_the_end(daemon, request)
        assert (reply["pool"], reply["preemption_policy"]) == ("general", "non-preemptive")
        assert reply["cores_allocated"] == ("0", "8")[osd]
        assert to_the_end(daemon, request) == reply
    count = ceph_request(action="allocate_cores", service_name="ceph-osd.2", num_of_cores=1)
    assert to_the_end(daemon, count)["allocated_cores"] == "1"
    listing = to_the_end(
        daemon, {"version": "1.0", "action": "list_allocations", "pool": "general"}
    )
    assert [entry["service_name"] for entry in listing["allocations"]] == [
        "ceph-osd.0",
        "ceph-osd.1",
        "ceph-osd.2",
    ]
    assert daemon.listing()["allocations"] == [], "the default listing shows no general owner"
    release = {
        "version": "1.0",
        "pool": "general",
        "action": "allocate_cores",
        "service_name": "ceph-osd.0",
        "num_of_cores": -1,
    }
    assert to_the_end(daemon, release)["preemption_policy"] is None


def test_the_older_ceph_charm_is_protected_from_the_dpdk_charm(daemon: Daemon):
    to_the_end(
        daemon,
        {
            "version": "1.0",
            "action": "allocate_numa_cores",
            "service_name": "ceph-osd.0",
            "numa_node": 0,
            "num_of_cores": 5,
            "preemption_policy": "non-preemptive",
        },
    )
    reply = daemon.ask(
        "allocate_numa_cores", service_name="ovs-dpdk-datapath", numa_node=0, num_of_cores=2
    )
    assert reply["code"] == "held-by-others"


def test_the_client_library_asks_everything(daemon: Daemon):
    client = epa_client.EpaClient(str(daemon.socket_path))
    assert client.allocate_cores("a", 2)["allocated_cores"] == "2-3"
    assert client.allocate_cores_percent("b", 10, pool="general")["cores_allocated_count"] == 1
    assert client.allocate_numa_cores("c", 1, 2)["cores_allocated"] == "10-11"
    assert client.release_numa_cores("c", 1)["num_of_cores"] == -1
    assert client.release_cores("a")["cores_allocated"] == 0
    assert client.list_allocations(pool="general")["total_allocations"] == 1
    assert client.allocate_hugepages("h", 3, 0, 2048)["allocation_successful"] is True
    assert client.get_memory_info("me")["service_name"] == "me"
    assert client.release_hugepages("h", 0, 2048)["hugepages_requested"] == -1
    assert client.get_topology()["online"] == "0-15"
    assert client.get_health()["healthy"] is True


def test_the_client_library_keeps_its_connection_and_survives_a_restart(daemon: Daemon):
    with epa_client.EpaClient(str(daemon.socket_path)) as client:
        for _ in range(3):
            client.allocate_cores("a", 2)
        daemon.restart()
        assert client.list_allocations()["total_allocated_cpus"] == 2


def test_the_client_library_reads_the_answer_to_what_it_could_not_send_whole(daemon: Daemon):
    client = epa_client.EpaClient(str(daemon.socket_path))
    with pytest.raises(epa_client.Refused) as caught:
        client.request("list_allocations", padding="x" * 6_000_000)
    assert caught.value.code == "request-too-long"


def test_every_reply_of_a_kept_connection_is_a_line(daemon: Daemon):
    for last in (b"x" * 70_000, b'{"half'):
        with daemon.connect() as connection:
            connection.sendall(b'{"action":"list_allocations","keep_alive":true}\n' + last)
            connection.shutdown(socket.SHUT_WR)
            replies = read_to_end(connection)
        assert replies.count(b"\n") == 2
        assert replies.endswith(b"\n")


def test_a_thousand_requests_on_one_connection(daemon: Daemon):
    with daemon.connect() as connection, connection.makefile("rwb") as stream:
        stream.write(b'{"action":"list_allocations","keep_alive":true}')
        stream.flush()
        assert json.loads(stream.readline())["total_allocations"] == 0
        for number in range(1000):
            request = {
                "action": "allocate_cores",
                "service_name": f"s{number % 7}",
                "num_of_cores": (1, -1)[number // 7 % 2],
            }
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            assert "error" not in json.loads(stream.readline())


def test_pipelined_lines_are_answered_in_order_and_bad_ones_do_not_end_it(daemon: Daemon):
    lines = [
        b'{"action":"allocate_cores","service_name":"a","num_of_cores":1,"keep_alive":true}',
        b'{"action":"list_allocations"}\nnot json\n\n[1]\n{"action":"get_memory_info","pool":5}\n',
        b'{"action":"allocate_cores","service_name":"b","num_of_cores":99}\n',
        b'{"action":"list_allocations"}\n',
    ]
    with daemon.connect() as connection, connection.makefile("rb") as stream:
        connection.sendall(b"".join(lines))
        replies = [json.loads(stream.readline()) for _ in range(7)]
    assert [reply.get("code", "ok") for reply in replies] == [
        "ok",
        "ok",
        "invalid-json",
        "invalid-json",
        "ok",
        "insufficient-cpus",
        "ok",
    ]
    assert replies[1]["total_allocations"] == 1


def test_a_flood_of_lines_is_fair_to_others_and_answered_whole(daemon: Daemon):
    count = 3000
    first = b'{"action":"list_allocations","keep_alive":true}\n'
    with daemon.connect() as connection, connection.makefile("rb") as stream:
        data = first + b'{"action":"list_allocations"}\n' * (count - 1)
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        replies = [stream.readline() for _ in range(count)]
        sender.join()
    assert all(json.loads(reply)["version"] == "1.0" for reply in replies)
