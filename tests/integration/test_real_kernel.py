# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A real kernel says what the recorded hosts say; EPA_HOSTS_UPDATE=1 records them anew."""

import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from epa_daemon import cpulist
from epa_daemon.host import HostReader, Pages
from tests import host_trees
from tests.integration.lab.lab import Lab
from tests.integration.lab.shape import Node, Shape

PROJECT = Path(__file__).parents[2]
COMMAND = {
    "/opt/epa/epa_daemon": PROJECT / "epa_daemon",
    "/opt/epa/charms": PROJECT / "lib/charms",
}
# The hosts of tests/hosts: their machines, and the CPUs that are taken offline before recording.
HOSTS = {
    "two-sockets-16cpu": (
        Shape(
            cpus=16,
            nodes=(Node("0-7", 4096), Node("8-15", 4096)),
            isolated="2-7,10-15",
            pages_2m=(32, 32),
            pages_1g=(1, 2),
        ),
        (),
    ),
    "offline-and-memory-only-node-8cpu": (
        Shape(
            nodes=(Node("0-3", 1024), Node("4-7", 1024), Node("", 1024)),
            isolated="2-7",
            pages_2m=(10, 10, 10),
        ),
        (5, 6),
    ),
    "plain-1cpu": (Shape(cpus=1, sockets=1, threads=1, nodes=(Node("0", 512),)), ()),
}


def record(lab: Lab, out: Path, shape: Shape, offline: tuple[int, ...] = ()) -> Path:
    """What `epa-orchestrator record` saves of such a machine: its sys and proc."""
    with lab.kernel_machine(shape, trees=COMMAND) as machine:
        for cpu in offline:
            machine.write(f"/sys/devices/system/cpu/cpu{cpu}/online", "0")
        machine.run("cd /opt/epa && python3 -m epa_daemon record /tmp/host")
        machine.run("tar -C /tmp/host -cf /tmp/host.tar sys proc")
        packed = machine.read("/tmp/host.tar")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(out, filter="data")
    return out


@pytest.mark.parametrize("name", HOSTS)
def test_a_recorded_host_can_be_recorded_again(lab: Lab, tmp_path: Path, name: str):
    again = record(lab, tmp_path / name, *HOSTS[name])
    kept = host_trees.HOSTS / name
    if "EPA_HOSTS_UPDATE" in os.environ:
        shutil.rmtree(kept)
        shutil.copytree(again, kept)
        pytest.fail(f"{kept.name} was recorded anew; read the difference")
    now, before = (HostReader(root).read(with_memory=True) for root in (again, kept))
    assert now == before


def test_interleaved_nodes_and_offline_cpus(lab: Lab, tmp_path: Path):
    shape = Shape(nodes=(Node("0-1,4-5", 1024), Node("2-3,6-7", 1024)), isolated="2-7", pages_2m=8)
    seen = HostReader(record(lab, tmp_path / "host", shape, (5,))).read(with_memory=True)
    nodes = {node: cpulist.format_ranges(cpus) for node, cpus in seen.topology.nodes.items()}
    assert nodes == {0: "0-1,4", 1: "2-3,6-7"}
    assert (cpulist.format_ranges(seen.isolated), len(seen.grantable)) == ("2-7", 7)
    assert seen.memory is not None
    assert seen.memory.nodes[0] == {2048: Pages(4, 4), 1048576: Pages(0, 0)}
    assert seen.faults == ()
