# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Reading host trees: generated ones of every shape, and recorded machines."""

import dataclasses
import functools
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epa_daemon import cpulist, host, topology
from epa_daemon.host import HostReader, Pages
from epa_daemon.topology import Topology
from tests import host_trees

CPU = Path("sys/devices/system/cpu")
NODE = Path("sys/devices/system/node")
RECORDED = os.environ.get("EPA_RECORDED_HOSTS", "")


def same_map(seen: Topology, expected: Topology) -> None:
    assert seen.online == expected.online
    assert seen.present == expected.present
    assert dict(seen.nodes) == dict(expected.nodes)
    assert {core.cpus for core in seen.cores} == {core.cpus for core in expected.cores}
    assert set(seen.caches) == set(expected.caches)
    assert seen.faults == ()


@pytest.mark.parametrize("masks", [False, True], ids=["lists", "masks"])
@pytest.mark.parametrize("threads", [1, 2, 4, 8])
@pytest.mark.parametrize("nodes", [1, 2, 8])
def test_regular_machines(tmp_path: Path, nodes: int, threads: int, masks: bool):
    tree = host_trees.regular(
        nodes=nodes, cores=4, threads=threads, caches_per_node=2, isolated="1-3"
    )
    tree = dataclasses.replace(tree, masks=masks)
    seen = HostReader(tree.write(tmp_path)).read()
    same_map(seen.topology, tree.topology())
    assert seen.isolated == {1, 2, 3}
    assert seen.faults == ()


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_machines_with_offline_cpus_and_gaps(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    first = data.draw(st.integers(0, 40))
    tree = host_trees.regular(nodes=2, cores=4, threads=2, first=first)
    offline = data.draw(st.frozensets(st.sampled_from(sorted(tree.cpus)), max_size=14))
    tree = dataclasses.replace(tree, offline=offline, isolated=tree.cpus)
    seen = HostReader(tree.write(tmp_path_factory.mktemp("host"))).read()
    same_map(seen.topology, tree.topology())
    assert seen.isolated == tree.cpus
    assert seen.grantable == tree.online


def test_one_cpu_and_1024(tmp_path: Path):
    one = HostReader(host_trees.HOSTS / "plain-1cpu").read()
    assert (one.grantable, one.isolated) == ({0}, frozenset())
    tree = host_trees.regular(nodes=8, cores=64, threads=2, caches_per_node=8)
    many = HostReader(tree.write(tmp_path)).read()
    same_map(many.topology, tree.topology())
    assert len(many.grantable) == 1024


def test_a_machine_without_numa_folders(tmp_path: Path):
    tree = dataclasses.replace(host_trees.regular(isolated="2-3"), nodes=None)
    reader = HostReader(tree.write(tmp_path))
    assert reader.read(with_memory=True).topology.nodes == {}
    assert reader.read(with_memory=True).memory == host.Memory({})


def test_the_recorded_guest_is_what_qemu_was_asked_for():
    seen = HostReader(host_trees.TWO_SOCKETS).read(with_memory=True)
    assert cpulist.format_ranges(seen.isolated) == "2-7,10-15"
    nodes = {n: cpulist.format_ranges(cpus) for n, cpus in seen.topology.nodes.items()}
    assert nodes == {0: "0-7", 1: "8-15"}
    assert {core.cpus for core in seen.topology.cores} == {
        frozenset({first, first + 1}) for first in range(0, 16, 2)
    }
    assert len({core.package for core in seen.topology.cores}) == 2
    assert seen.memory is not None
    assert seen.memory.nodes[1] == {2048: Pages(32, 32), 1048576: Pages(2, 2)}


def test_the_recorded_guest_with_offline_cpus_and_a_memory_only_node():
    seen = HostReader(host_trees.HOSTS / "offline-and-memory-only-node-8cpu").read(True)
    assert cpulist.format_ranges(seen.grantable) == "0-4,7"
    assert cpulist.format_ranges(seen.isolated) == "2-7"
    assert seen.topology.nodes[2] == frozenset()
    assert seen.memory is not None
    assert seen.memory.nodes[2] == {2048: Pages(10, 10), 1048576: Pages(0, 0)}
    assert frozenset({4}) in {core.cpus for core in seen.topology.cores}


def test_online_and_isolated_are_read_afresh(tmp_path: Path):
    tree = host_trees.regular(isolated="2-7").write(tmp_path)
    reader = HostReader(tree)
    assert len(reader.read().topology.cores) == 4
    host_trees.write(tmp_path / CPU / "online", "0-5")
    host_trees.write(tmp_path / CPU / "isolated", "4-5")
    seen = reader.read()
    assert cpulist.format_ranges(seen.grantable) == "0-5"
    assert cpulist.format_ranges(seen.isolated) == "4-5"
    assert len(seen.topology.cores) == 3


def test_a_repaired_or_late_file_is_seen_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(host, "_FIRST_PATIENCE", 0.0)
    reader = HostReader(host_trees.regular(nodes=2).write(tmp_path))
    host_trees.write(tmp_path / NODE / "node1/cpulist", "8-")
    assert 1 in reader.read().topology.broken_nodes
    host_trees.write(tmp_path / NODE / "node1/cpulist", "8-15")
    seen = reader.read().topology
    assert (seen.broken_nodes, len(seen.nodes[1])) == ({}, 8)
    assert reader.read().topology is seen, "a settled map is kept"
    host_trees.write(tmp_path / NODE / "node2/cpulist", "")
    assert reader.read().topology.nodes[2] == frozenset()


def test_an_unsettled_map_is_read_again_ever_more_rarely(tmp_path: Path):
    reader = HostReader(host_trees.regular(nodes=2).write(tmp_path))
    host_trees.write(tmp_path / NODE / "node1/cpulist", "8-")
    assert reader.read().topology is reader.read().topology


def test_absent_unreadable_and_malformed_are_told_apart(tmp_path: Path):
    reader = HostReader(host_trees.regular(isolated="2-7").write(tmp_path))
    online = tmp_path / CPU / "online"
    online.unlink()
    fault = reader.read().online_fault
    assert fault is not None
    assert (fault.kind, fault.reason) == ("absent", "No such file or directory")
    online.mkdir()
    fault = reader.read().online_fault
    assert fault is not None
    assert (fault.kind, fault.reason) == ("unreadable", "Is a directory")
    online.rmdir()
    host_trees.write(online, "0-x")
    seen = reader.read()
    assert seen.online_fault is not None
    assert seen.online_fault.kind == "malformed"
    assert seen.online_fault.reason == "Invalid cpu-pool CPU list component: '0-x'"
    assert seen.grantable == frozenset()
    assert seen.topology.online == frozenset(range(8)), "the map falls back to the cpuN folders"


def test_a_malformed_node_is_named_and_the_others_work(tmp_path: Path):
    tree = host_trees.regular(nodes=2).write(tmp_path)
    host_trees.write(tree / NODE / "node1/cpulist", "8-")
    seen = HostReader(tree).read().topology
    assert seen.broken_nodes[1].path == str(tree / NODE / "node1/cpulist")
    assert seen.nodes[0] == frozenset(range(8))


def test_malformed_siblings_make_single_threads_and_a_fault(tmp_path: Path):
    tree = host_trees.regular().write(tmp_path)
    for cpu in (0, 1):
        host_trees.write(tree / CPU / f"cpu{cpu}/topology/thread_siblings_list", "?")
    seen = HostReader(tree).read().topology
    assert frozenset({0}) in {core.cpus for core in seen.cores}
    assert len(seen.faults) == 2


def test_siblings_that_disagree_use_each_cpu_once(tmp_path: Path):
    tree = host_trees.regular().write(tmp_path)
    host_trees.write(tree / CPU / "cpu2/topology/thread_siblings_list", "0-3")
    seen = HostReader(tree).read().topology
    assert sorted(cpu for core in seen.cores for cpu in core.cpus) == list(range(8))


def test_hugepage_counts_that_cannot_be_read_are_a_fault_and_not_a_zero(tmp_path: Path):
    tree = host_trees.regular(pages={(0, 2048): (8, 8)}).write(tmp_path)
    free = tree / NODE / "node0/hugepages/hugepages-2048kB/free_hugepages"
    free.unlink()
    free.mkdir()
    memory = HostReader(tree).read(with_memory=True).memory
    assert memory is not None
    assert memory.fault is not None
    assert (memory.fault.path, memory.fault.kind) == (str(free), "unreadable")
    assert "snap connect" in memory.fault.advice
    assert memory.nodes == {}


def test_a_malformed_hugepage_count_names_its_file(tmp_path: Path):
    tree = host_trees.regular(pages={(0, 2048): (8, 8)}).write(tmp_path)
    count = tree / NODE / "node0/hugepages/hugepages-2048kB/nr_hugepages"
    host_trees.write(count, "many")
    memory = HostReader(tree).read(with_memory=True).memory
    assert memory is not None
    assert memory.fault is not None
    assert (memory.fault.path, memory.fault.kind) == (str(count), "malformed")


def test_caches_are_cut_at_nodes_unless_they_hold_whole_ones(tmp_path: Path):
    tree = host_trees.regular(nodes=4, cores=2, threads=2)
    crossing, whole = frozenset(range(2, 6)), frozenset(range(8, 16))
    tree = dataclasses.replace(tree, caches=(crossing, whole))
    seen = HostReader(tree.write(tmp_path)).read().topology
    assert set(seen.caches) == {frozenset({2, 3}), frozenset({4, 5}), whole}
    assert [kind for kind, _ in seen.places[8].blocks] == ["cache", "node"]
    assert [kind for kind, _ in seen.places[2].blocks] == ["node", "cache"]


def recorded() -> list[str]:
    return sorted(path.name for path in Path(RECORDED).glob("*.tar.*")) if RECORDED else []


@pytest.fixture(scope="module")
def unpack(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Unpacks a recorded host's CPUs and nodes, once."""

    @functools.cache
    def unpack_once(name: str) -> Path:
        folder = tmp_path_factory.mktemp("recorded")
        with tarfile.open(Path(RECORDED) / name) as tar:
            system = [
                m for m in tar if "/devices/system/cpu" in m.name or "/system/node" in m.name
            ]
            tar.extractall(folder, system, filter="tar")
        (root,) = folder.iterdir()
        return root

    return unpack_once


needs_recorded = pytest.mark.skipif(
    not RECORDED, reason="EPA_RECORDED_HOSTS names no folder of recorded hosts"
)


@needs_recorded
@pytest.mark.parametrize("name", recorded())
def test_recorded_machines_are_understood(name: str, unpack: Callable[[str], Path]):
    root = unpack(name)
    seen = topology.read(root, HostReader(root).read().grantable or None)
    assert seen.faults == ()
    assert seen.online
    assert seen.online <= seen.present
    assert sorted(cpu for core in seen.cores for cpu in core.cpus) == sorted(seen.online)
    assert set(seen.places) == seen.online
    for groups in (seen.nodes.values(), seen.caches):
        cpus = [cpu for group in groups for cpu in group]
        assert len(cpus) == len(set(cpus))
        assert seen.online.issuperset(cpus)
    memory = host.read_memory(root)
    assert memory.fault is None
    assert memory.nodes.keys() == seen.nodes.keys()


SHAPES = {
    "16em64t-4s2c2t-offlines": "cpus 12 nodes 1 threads 1,2",
    "256ppc-8n8s4t": "cpus 256 nodes 8 threads 4",
    "48amd64-4pa2n6c-sparse": "cpus 48 nodes 8 threads 1",
    "64amd64-4s2n4ca2co": "cpus 64 nodes 8 threads 2",
    "20em64t-hybrid-1p6c2t+2ca4co1t": "cpus 20 nodes 1 threads 1,2",
    "2i386-2t-hugepagesizecount": "cpus 2 nodes 0 threads 2",
    "128arm-2pa2n8cluster4co": "cpus 128 nodes 4 threads 1",
    "offline-cpu0-node0": "cpus 17 nodes 1 threads 1",
    "x86_64-epyc_7451": "cpus 96 nodes 8 threads 2",
}


@needs_recorded
@pytest.mark.parametrize("name", SHAPES)
def test_recorded_machines_have_the_shape_of_their_name(name: str, unpack: Callable[[str], Path]):
    (archive,) = Path(RECORDED).glob(f"{name}.tar.*")
    root = unpack(archive.name)
    seen = HostReader(root).read().topology
    threads = ",".join(map(str, sorted({len(core.cpus) for core in seen.cores})))
    shape = f"cpus {len(seen.online)} nodes {len(seen.nodes)} threads {threads}"
    assert shape == SHAPES[name]
