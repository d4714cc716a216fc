# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

import dataclasses
from typing import Any

import pytest

from epa_daemon import hugepages
from epa_daemon.errors import Refusal
from epa_daemon.host import Memory, Pages
from epa_daemon.ledger import Ledger
from epa_daemon.protocol import AllocateHugepages, GetMemoryInfo
from epa_daemon.sysfs import Fault
from tests.unit.scenes import host, memory

HOST = dataclasses.replace(
    host(), memory=memory(node0_2048=(8, 8), node0_1048576=(2, 0), node1_2048=(4, 1))
)


def ask(count: int, service: str = "a", node: int = 0, size: int = 2048) -> AllocateHugepages:
    return AllocateHugepages(
        service_name=service, hugepages_requested=count, node_id=node, size_kb=size
    )


def refused(request: AllocateHugepages, seen: Any = HOST, before: Ledger | None = None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        hugepages.decide(request, seen, before or Ledger())
    return caught.value


def test_a_record_is_set_grown_shrunk_and_removed():
    ledger = Ledger()
    for count in (3, 8, 2):
        reply, ledger = hugepages.decide(ask(count), HOST, ledger)
        assert reply.message == f"Successfully set allocation request to {count} hugepages"
        assert ledger.pages_of((0, 2048), "a") == count
    reply, ledger = hugepages.decide(ask(-1), HOST, ledger)
    assert reply.message == "Removed recorded hugepage allocation"
    assert ledger == Ledger()
    assert hugepages.decide(ask(-1), HOST, ledger)[0].message == "No existing record to remove"


def test_only_the_increase_must_fit():
    _, ledger = hugepages.decide(ask(6), HOST, Ledger())
    assert refused(ask(3, "b"), before=ledger).text == (
        "NUMA node 0 size 2048 KB only has 2 free hugepages, requested additional 3"
    )
    assert refused(ask(9), before=ledger).text.endswith("2 free hugepages, requested additional 3")
    assert hugepages.decide(ask(8), HOST, ledger)[1].pages_recorded((0, 2048)) == 8


def test_used_pages_are_not_subtracted_twice():
    assert hugepages.free_pages(Pages(total=8, free=8), recorded=3) == 5
    assert hugepages.free_pages(Pages(total=8, free=5), recorded=3) == 5
    assert hugepages.free_pages(Pages(total=8, free=6), recorded=3) == 5
    assert hugepages.free_pages(Pages(total=2, free=0), recorded=9) == 0


def test_what_is_wrong_comes_in_order():
    assert refused(ask(0, node=9)).text == (
        "hugepages_requested=0 is invalid for allocate_hugepages"
    )
    assert refused(ask(1, node=9, size=4)).text == "NUMA node 9 not found"
    assert refused(ask(99, size=4)).text == "Hugepage size 4 KB not found on node 0"
    no_numa = dataclasses.replace(HOST, memory=Memory())
    assert refused(ask(1), no_numa).text == "NUMA node 0 not found"


def test_a_removal_never_looks_at_the_host():
    _, ledger = hugepages.decide(ask(1), HOST, Ledger())
    unread = dataclasses.replace(HOST, memory=None)
    reply, ledger = hugepages.decide(ask(-1), unread, ledger)
    assert reply.message == "Removed recorded hugepage allocation"
    assert hugepages.decide(ask(-1, node=77, size=5), unread, ledger)[1] == Ledger()


def test_unreadable_counts_are_an_error_and_never_zero():
    fault = Fault("/sys/x", "unreadable", "Permission denied", "connect the plug")
    seen = dataclasses.replace(HOST, memory=Memory(fault=fault))
    for refusal in (refused(ask(1), seen),):
        assert refusal.text.startswith("Failed to get memory information: /sys/x: Permission")
        assert refusal.code == "memory-unreadable"
    with pytest.raises(Refusal):
        hugepages.memory_info(GetMemoryInfo(), seen, Ledger())


def test_memory_info_shows_capacity_and_records():
    seen = dataclasses.replace(
        HOST, memory=Memory({0: HOST.memory.nodes[0], 3: {}} if HOST.memory else {})
    )
    _, ledger = hugepages.decide(ask(3), HOST, Ledger())
    reply = hugepages.memory_info(GetMemoryInfo(service_name="x"), seen, ledger)
    assert reply.model_dump() == {
        "version": "1.0",
        "service_name": "x",
        "numa_hugepages": {
            "node0": {
                "capacity": [
                    {"total": 8, "free": 5, "size": 2048},
                    {"total": 2, "free": 0, "size": 1048576},
                ],
                "allocations": {"a": {"2048": 3}},
            },
            "node3": {"capacity": [], "allocations": {}},
        },
    }
    vanished = dataclasses.replace(HOST, memory=Memory({3: {}}))
    shown = hugepages.memory_info(GetMemoryInfo(), vanished, ledger).model_dump()
    assert shown["numa_hugepages"] == {
        "node3": {"capacity": [], "allocations": {}},
        "node0": {"capacity": [], "allocations": {"a": {"2048": 3}}},
    }
    empty = hugepages.memory_info(
        GetMemoryInfo(), dataclasses.replace(HOST, memory=Memory()), ledger
    )
    assert (empty.service_name, empty.numa_hugepages) == ("", {})
