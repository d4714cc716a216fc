# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A real kernel in a qemu guest says what the recorded hosts say.

Needs qemu-system-x86_64, a static busybox, cpio, and in EPA_LAB_KERNEL a kernel image with an
8250 console (the one of Debian's linux-image-cloud-amd64).
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from epa_daemon import cpulist
from epa_daemon.host import HostReader, Pages
from tests import host_trees

KERNEL = os.environ.get("EPA_LAB_KERNEL", "")
TOOLS = ("qemu-system-x86_64", "busybox", "cpio")
MISSING = [tool for tool in TOOLS if not shutil.which(tool)] + (
    [] if KERNEL else ["a kernel in EPA_LAB_KERNEL"]
)

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")


def record(out: Path, machine: str, parameters: str) -> Path:
    recorder = str(host_trees.HOSTS / "record-guest")
    subprocess.run([recorder, str(out), KERNEL, machine, parameters], check=True, timeout=200)
    return out


def test_the_recorded_host_can_be_recorded_again(tmp_path: Path):
    nodes = (
        "-object memory-backend-ram,size=4G,id=m0 -object memory-backend-ram,size=4G,id=m1 "
        "-numa node,nodeid=0,cpus=0-7,memdev=m0 -numa node,nodeid=1,cpus=8-15,memdev=m1"
    )
    machine = f"-cpu Skylake-Server,+pdpe1gb -m 8192 -smp 16,sockets=2,cores=4,threads=2 {nodes}"
    parameters = "isolcpus=2-7,10-15 hugepagesz=2M hugepages=64 hugepagesz=1G hugepages=0:1,1:2"
    now = HostReader(record(tmp_path / "host", machine, parameters)).read(with_memory=True)
    before = HostReader(host_trees.TWO_SOCKETS).read(with_memory=True)
    assert now == before


def test_interleaved_nodes_and_offline_cpus(tmp_path: Path):
    machine = (
        "-cpu Nehalem -m 2048 -smp 8,sockets=2,cores=2,threads=2 "
        "-object memory-backend-ram,size=1G,id=m0 -object memory-backend-ram,size=1G,id=m1 "
        "-numa node,nodeid=0,cpus=0-1,cpus=4-5,memdev=m0 "
        "-numa node,nodeid=1,cpus=2-3,cpus=6-7,memdev=m1"
    )
    seen = HostReader(
        record(tmp_path / "host", machine, "isolcpus=2-7 offline=5 hugepagesz=2M hugepages=8")
    ).read(with_memory=True)
    nodes = {node: cpulist.format_ranges(cpus) for node, cpus in seen.topology.nodes.items()}
    assert nodes == {0: "0-1,4", 1: "2-3,6-7"}
    assert (cpulist.format_ranges(seen.isolated), len(seen.grantable)) == ("2-7", 7)
    assert seen.memory is not None
    assert seen.memory.nodes[0] == {2048: Pages(4, 4)}
    assert seen.faults == ()
