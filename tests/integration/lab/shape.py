# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What a machine is made of, and how qemu and the kernel are told."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_CPUS = 240
# What kernel, systemd and snapd need besides hugepages.
ORDINARY_MEMORY = 512


@dataclass(frozen=True)
class Node:
    """A NUMA node: its CPUs as a list ("0-3,8", "" for memory only) and its memory in MiB."""

    cpus: str
    memory: int


@dataclass(frozen=True)
class Shape:
    """A machine's topology, checked when it is made.

    Siblings are adjacent ids (0-1, 2-3, ...): qemu has no other order. Pages are a count for the
    whole machine, or a tuple with one count for each node.

    Args:
        isolated: the kernel's isolcpus list, "" for none.
        pages_1g: node 0 can give one from 4 GiB on, as its lowest two are broken up and the kernel
            takes from the top of the rest; other nodes from 2 GiB on.
        nodes: none for one node of 2 GiB with every CPU.
        kernel: more kernel arguments.

    Raises:
        ValueError: such a machine cannot be.
    """

    cpus: int = 8
    sockets: int = 2
    threads: int = 2
    nodes: tuple[Node, ...] = ()
    isolated: str = ""
    pages_2m: int | tuple[int, ...] = 0
    pages_1g: int | tuple[int, ...] = 0
    kernel: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.cpus <= MAX_CPUS:
            raise ValueError(f"{self.cpus} CPUs: 1 to {MAX_CPUS} can be had")
        if self.sockets < 1 or self.threads < 1 or self.cpus % (self.sockets * self.threads):
            raise ValueError(
                f"{self.cpus} CPUs do not divide into {self.sockets} sockets with cores of "
                f"{self.threads} threads"
            )
        if not self.nodes:
            everything = Node(f"0-{self.cpus - 1}", 2048)
            object.__setattr__(self, "nodes", (everything,))
        self._check_nodes()
        self._check_memory()

    def _check_nodes(self) -> None:
        owned = [cpu for node in self.nodes for cpu in parse_cpus(node.cpus)]
        if sorted(owned) != list(range(self.cpus)):
            raise ValueError(f"each of the {self.cpus} CPUs must be in one node, not {owned}")
        if beyond := [cpu for cpu in parse_cpus(self.isolated) if cpu >= self.cpus]:
            raise ValueError(f"isolated CPUs {beyond} do not exist")

    def _check_memory(self) -> None:
        if any(node.memory < 128 or node.memory % 128 for node in self.nodes):
            raise ValueError("a node's memory must be a multiple of 128 MiB, and not 0")
        for pages in (self.pages_2m, self.pages_1g):
            if isinstance(pages, tuple) and len(pages) != len(self.nodes):
                raise ValueError(f"{len(pages)} counts of pages for {len(self.nodes)} nodes")
        huge = 2 * _total(self.pages_2m) + 1024 * _total(self.pages_1g)
        if self.memory - huge < ORDINARY_MEMORY:
            raise ValueError(
                f"{huge} MiB of hugepages leave less than {ORDINARY_MEMORY} MiB of {self.memory}"
            )

    @property
    def memory(self) -> int:
        """MiB of all nodes."""
        return sum(node.memory for node in self.nodes)

    @property
    def kernel_arguments(self) -> tuple[str, ...]:
        isolated = (f"isolcpus={self.isolated}",) if self.isolated else ()
        pages = (*_page_arguments("2M", self.pages_2m), *_page_arguments("1G", self.pages_1g))
        return (*isolated, *pages, *self.kernel)

    def qemu_arguments(self, memory: Path | None = None, *, shared: bool = False) -> list[str]:
        """qemu's options for CPUs and memory.

        Args:
            memory: a folder with one file per node, or to make them in; None for plain memory.
            shared: whether the guest writes to those files, or only to copies of their pages.
        """
        cores = self.cpus // (self.sockets * self.threads)
        topology = f"{self.cpus},sockets={self.sockets},cores={cores},threads={self.threads}"
        arguments = [
            # The siblings of threads=2 are seen only with one of Intel's models.
            *("-cpu", "Nehalem,+pdpe1gb"),
            *("-smp", topology, "-m", f"{self.memory}M"),
        ]
        for number, node in enumerate(self.nodes):
            kind = "memory-backend-ram"
            if memory:
                share = "on" if shared else "off"
                kind = f"memory-backend-file,mem-path={memory}/ram.{number},share={share}"
            arguments += ["-object", f"{kind},id=m{number},size={node.memory}M"]
            ranges = "".join(f",cpus={part}" for part in node.cpus.split(",") if part)
            arguments += ["-numa", f"node,nodeid={number},memdev=m{number}{ranges}"]
        return arguments


def parse_cpus(text: str) -> list[int]:
    """The ids of a kernel list; not the daemon's own parser, which the lab is there to judge."""
    return list(_ids(text))


def _ids(text: str) -> Iterator[int]:
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _total(pages: int | tuple[int, ...]) -> int:
    return pages if isinstance(pages, int) else sum(pages)


def _page_arguments(size: str, pages: int | tuple[int, ...]) -> tuple[str, ...]:
    if not _total(pages):
        return ()
    each = pages if isinstance(pages, tuple) else None
    count = ",".join(f"{node}:{n}" for node, n in enumerate(each)) if each else str(pages)
    return f"hugepagesz={size}", f"hugepages={count}"
