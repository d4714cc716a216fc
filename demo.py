# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The main job on a recorded host: a real daemon, and what its clients of today send it.

The host has two sockets with a NUMA node each, two threads per core, isolcpus=2-7,10-15 and
hugepages of 2M and 1G. Nothing of this machine is read or changed.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from charms.epa_orchestrator.v0 import epa_client

from epa_daemon import tables

HOST = Path(__file__).parent / "tests/hosts/two-sockets-16cpu"
GENERAL_POOL = "8-9"
GIGABYTE = 1048576

HYPERVISOR: list[dict[str, Any]] = [
    {
        "action": "allocate_cores",
        "service_name": "openstack-hypervisor",
        "num_of_cores": 0,
        "numa_node": None,
    }
]
DPDK: list[dict[str, Any]] = [
    step
    for node in (0, 1)
    for step in (
        {
            "action": "allocate_hugepages",
            "service_name": "ovs-dpdk-hugepages",
            "hugepages_requested": 1,
            "node_id": node,
            "size_kb": GIGABYTE,
        },
        {
            "action": "allocate_numa_cores",
            "service_name": "ovs-dpdk-control-plane",
            "numa_node": node,
            "num_of_cores": 1,
        },
        {
            "action": "allocate_numa_cores",
            "service_name": "ovs-dpdk-datapath",
            "numa_node": node,
            "num_of_cores": 2,
        },
    )
]
CEPH: list[dict[str, Any]] = [
    {"action": "list_allocations"},
    {
        "action": "allocate_numa_cores",
        "service_name": "ceph-osd.0",
        "numa_node": 1,
        "num_of_cores": 1,
        "pool": "general",
        "preemption_policy": "non-preemptive",
    },
]
GREEDY: list[dict[str, Any]] = [
    {"action": "allocate_numa_cores", "service_name": "greedy", "numa_node": 0, "num_of_cores": 6}
]
STORY = [
    ("The openstack-hypervisor snap asks for whatever its guests may be pinned to", HYPERVISOR),
    ("The OVS-DPDK charm asks for pages and CPUs of each node, and may take from nova", DPDK),
    ("The Ceph charm discovers, then protects a CPU of the general pool", CEPH),
    ("Somebody wants all of node 0: what DPDK holds explicitly is not taken", GREEDY),
]


def main() -> int:
    """Play the story; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="epa-demo-") as folder:
        daemon, path = start(Path(folder))
        try:
            show("The host before anybody asks", path)
            for title, requests in STORY:
                heading(title)
                for request in requests:
                    exchange(path, {"version": "1.0", **request})
                show("The host now", path)
            stop(daemon)
            daemon, path = start(Path(folder))
            show("After a restart of the daemon: the same", path)
        finally:
            stop(daemon)
    print("\nThe daemon was real, and so were the requests. Next: README.md, docs/")
    return 0


def start(folder: Path) -> tuple["subprocess.Popen[bytes]", str]:
    """Start a daemon and wait until it answers."""
    path = str(folder / "data/epa.sock")
    command = [
        *(sys.executable, "-m", "epa_daemon", "daemon", "--log-level", "warning"),
        *("--root", str(HOST), "--data", str(folder / "data")),
        *("--state", str(folder / "state"), "--cpu-pool", GENERAL_POOL),
    ]
    daemon = subprocess.Popen(command)
    deadline = time.monotonic() + 20
    while not os.path.exists(path):
        if daemon.poll() is not None or time.monotonic() > deadline:
            stop(daemon)
            raise SystemExit("the daemon did not start; its message is above")
        time.sleep(0.01)
    return daemon, path


def stop(daemon: "subprocess.Popen[bytes]") -> None:
    """End the daemon as its service manager would."""
    if daemon.poll() is None:
        daemon.terminate()
    daemon.wait(20)


def exchange(path: str, request: dict[str, Any]) -> None:
    """Send one request as the clients do, and print both sides."""
    raw = json.dumps(request, separators=(",", ":"))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(raw.encode())
        reply = connection.makefile().read()
    print(f"  > {raw}\n  < {reply if len(reply) < 400 else reply[:400] + '...'}")


def show(title: str, path: str) -> None:
    """Print what people see."""
    client = epa_client.EpaClient(path)
    heading(title)
    print(indented(tables.topology(client.get_topology())))
    print(indented(tables.hugepages(client.get_memory_info())))


def heading(title: str) -> None:
    """Print a heading."""
    print(f"\n== {title}")


def indented(text: str) -> str:
    """A block of text under its heading."""
    return "".join(f"  {line}\n" for line in text.splitlines())


if __name__ == "__main__":
    sys.exit(main())
