# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Decide a hugepage request: bookkeeping per service, node and size (contract, part 8). Pure."""

from epa_daemon.errors import Refusal
from epa_daemon.host import Host, Memory, Pages
from epa_daemon.ledger import Ledger, PageKey
from epa_daemon.protocol import AllocateHugepages, GetMemoryInfo
from epa_daemon.replies import AllocateHugepagesReply, MemoryInfoReply, NodePages, PageCount


def decide(
    request: AllocateHugepages, host: Host, ledger: Ledger
) -> tuple[AllocateHugepagesReply, Ledger]:
    """Set or remove a record. A removal never looks at the host.

    Returns:
        The reply, and the ledger as it is once the reply may be sent.

    Raises:
        Refusal: the request is refused and nothing changes.
    """
    key = (request.node_id, request.size_kb)
    wanted, recorded = request.hugepages_requested, ledger.pages_of(key, request.service_name)
    if wanted == 0:
        raise Refusal("invalid-count", "hugepages_requested=0 is invalid for allocate_hugepages")
    if wanted == -1:
        if not recorded:
            return _reply(request, "No existing record to remove"), ledger
        ledger = ledger.with_pages(key, request.service_name, 0)
        return _reply(request, "Removed recorded hugepage allocation"), ledger
    free = _free_pages(key, host, ledger)
    if wanted - recorded > free:
        raise Refusal(
            "insufficient-hugepages",
            f"NUMA node {key[0]} size {key[1]} KB only has {free} free hugepages, "
            f"requested additional {wanted - recorded}",
        )
    ledger.require_room_for(request.service_name)
    if wanted != recorded:
        ledger = ledger.with_pages(key, request.service_name, wanted)
    return _reply(request, f"Successfully set allocation request to {wanted} hugepages"), ledger


def _free_pages(key: PageKey, host: Host, ledger: Ledger) -> int:
    node, size = key
    memory = readable_memory(host)
    if node not in memory.nodes:
        raise Refusal("no-such-node", f"NUMA node {node} not found")
    if size not in memory.nodes[node]:
        raise Refusal("no-such-hugepage-size", f"Hugepage size {size} KB not found on node {node}")
    return free_pages(memory.nodes[node][size], ledger.pages_recorded(key))


def free_pages(pages: Pages, recorded: int) -> int:
    """The kernel's free count minus what is recorded but not yet used."""
    used = pages.total - pages.free
    return max(pages.free - max(recorded - used, 0), 0)


def readable_memory(host: Host) -> Memory:
    """The host's hugepages.

    Raises:
        Refusal: `memory-unreadable`; a count that cannot be read is never shown as none.
    """
    memory = host.memory
    assert memory is not None, "this look at the host did not ask for memory"
    if memory.fault:
        raise Refusal(
            "memory-unreadable",
            f"Failed to get memory information: {memory.fault}",
            memory.fault.path,
        )
    return memory


def memory_info(request: GetMemoryInfo, host: Host, ledger: Ledger) -> MemoryInfoReply:
    """Capacity and records of every node of the host, memory-only nodes included.

    A node that is gone while there are records of it is shown with them, and without capacity.

    Raises:
        Refusal: `memory-unreadable`.
    """
    memory = readable_memory(host)
    return MemoryInfoReply(
        service_name=request.service_name or "",
        numa_hugepages={
            f"node{node}": NodePages(
                capacity=[
                    PageCount(
                        total=pages.total,
                        free=free_pages(pages, ledger.pages_recorded((node, size))),
                        size=size,
                    )
                    for size, pages in sizes.items()
                ],
                allocations=_records(node, ledger),
            )
            for node, sizes in {**memory.nodes, **_gone(memory, ledger)}.items()
        },
    )


def _gone(memory: Memory, ledger: Ledger) -> dict[int, dict[int, Pages]]:
    """The nodes of records that a host with NUMA has no more."""
    recorded = {node for node, _ in ledger.hugepages} if memory.nodes else set[int]()
    return {node: {} for node in sorted(recorded - memory.nodes.keys())}


def _records(node: int, ledger: Ledger) -> dict[str, dict[str, int]]:
    services: dict[str, dict[str, int]] = {}
    for (where, size), records in sorted(ledger.hugepages.items()):
        if where == node:
            for service, count in records.items():
                services.setdefault(service, {})[str(size)] = count
    return dict(sorted(services.items()))


def _reply(request: AllocateHugepages, message: str) -> AllocateHugepagesReply:
    return AllocateHugepagesReply(
        service_name=request.service_name,
        hugepages_requested=request.hugepages_requested,
        message=message,
        node_id=request.node_id,
        size_kb=request.size_kb,
    )
