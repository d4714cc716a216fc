# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What clients were told, and whether a daemon's answers agree with it. Pure.

A story is what one service asked for, step by step, with the replies. A client asks again only
when it has its reply, so at most the last step has none: that one may have been done or not, but
wholly, and all others are as they were answered.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from epa_daemon import cpulist
from tests import host_trees

Fields = dict[str, Any]

# Big enough that the clients of `load` seldom stand in each other's way.
HOST = host_trees.regular(
    nodes=2,
    cores=32,
    threads=2,
    isolated="16-127",
    pages={(0, 2048): (512, 512), (1, 2048): (512, 512)},
)
GENERAL = "0-15"
_ELIGIBLE = {"isolated": 112, "general": 16}
assert HOST.nodes is not None
_NODES = HOST.nodes


@dataclass(frozen=True)
class Held:
    """What a service holds: CPUs, and hugepages by node and size."""

    cpus: frozenset[int] = frozenset()
    pages: Mapping[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])

    def __str__(self) -> str:
        return f"CPUs {cpulist.format_ranges(self.cpus) or 'none'}, pages {dict(self.pages)}"


NOTHING = Held()


@dataclass(frozen=True)
class Step:
    """A request, with its reply once there is one.

    Attributes:
        mark: when the reply was seen, on the clock of whoever tells the story.
    """

    request: Fields
    reply: Fields | None = None
    mark: int = 0


@dataclass
class Story:
    """What one service held at first, and its steps since."""

    first: Held = NOTHING
    steps: list[Step] = field(default_factory=list[Step])

    def asked(self, request: Fields) -> None:
        self.steps.append(Step(request))

    def told(self, reply: Fields, mark: int = 0) -> None:
        self.steps[-1] = replace(self.steps[-1], reply=reply, mark=mark)

    def disagreement(self, seen: Held, until: int | None = None) -> str | None:
        """Why this cannot be what the service holds; None where it can.

        Args:
            until: replies up to this mark must count; later ones may, step by step. None for all.
        """
        held, possible = self.first, [self.first]
        for step in self.steps:
            if step.reply is None:
                if seen in possible or _may_be(step.request, held, seen):
                    return None
                break
            held = after(step, held)
            if until is None or step.mark <= until:
                possible = [held]
            else:
                possible.append(held)
        if seen in possible:
            return None
        last = [(s.request, s.reply) for s in self.steps[-3:]]
        return f"holds {seen}; was told {'; or '.join(map(str, possible))}; last: {last}"


def acknowledged(stories: Iterable[Story], until: int | None = None) -> int:
    """Replies that must count."""
    steps = [step for story in stories for step in story.steps]
    return sum(s.reply is not None and (until is None or s.mark <= until) for s in steps)


def after(step: Step, held: Held) -> Held:
    """What a service holds after a step that was answered."""
    request, reply = step.request, step.reply
    assert reply is not None
    if "error" in reply:
        return held
    match request["action"]:
        case "allocate_hugepages":
            return _with_pages(held, request)
        case "allocate_numa_cores":
            others = held.cpus - _NODES[request["numa_node"]]
            return replace(held, cpus=others | cpulist.parse(reply["cores_allocated"]))
        case _:
            return replace(held, cpus=cpulist.parse(reply["allocated_cores"]))


def _with_pages(held: Held, request: Fields) -> Held:
    pages = dict(held.pages)
    key = request["node_id"], request["size_kb"]
    pages.pop(key, None)
    if request["hugepages_requested"] > 0:
        pages[key] = request["hugepages_requested"]
    return replace(held, pages=pages)


def _may_be(request: Fields, before: Held, seen: Held) -> bool:
    """Whether a request without a reply may have led there, wholly."""
    if request["action"] == "allocate_hugepages":
        return seen == _with_pages(before, request)
    if seen.pages != before.pages:
        return False
    old, new = before.cpus, seen.cpus
    if request["action"] == "allocate_numa_cores":
        node = _NODES[request["numa_node"]]
        if old - node != new - node:
            return False
        return _resized(old & node, new & node, max(request["num_of_cores"], 0))
    if request["action"] == "allocate_cores_percent":
        share = max(request["percent"], 0) / 100
        return _resized(old, new, math.ceil(_ELIGIBLE[request["pool"]] * share))
    return _resized(old, new, max(request["num_of_cores"], 0))


def _resized(old: frozenset[int], new: frozenset[int], count: int) -> bool:
    return len(new) == count and (old <= new or new <= old)


def seen_of(listings: Sequence[Fields], memory: Fields) -> dict[str, Held]:
    """What a daemon shows, by service.

    Args:
        listings: replies to list_allocations, of each pool.
        memory: the reply to get_memory_info.
    """
    held: dict[str, Held] = {}
    for listing in listings:
        for entry in listing["allocations"]:
            cpus = cpulist.parse(entry["allocated_cores"])
            held[entry["service_name"]] = Held(cpus)
    for node, content in memory["numa_hugepages"].items():
        for service, counts in content["allocations"].items():
            old = held.get(service, NOTHING)
            pages = {(int(node[4:]), int(size)): count for size, count in counts.items()}
            held[service] = replace(old, pages={**old.pages, **pages})
    return held


def lies(
    stories: Mapping[str, Story], seen: Mapping[str, Held], until: int | None = None
) -> list[str]:
    """Everything in which a daemon disagrees with what its clients were told; [] if nothing."""
    found: list[str] = []
    for service in sorted(stories.keys() | seen.keys()):
        story = stories.get(service, Story())
        wrong = story.disagreement(seen.get(service, NOTHING), until)
        if wrong:
            found.append(f"{service} {wrong}")
    owners: dict[int, str] = {}
    for service, held in sorted(seen.items()):
        for cpu in sorted(held.cpus):
            if cpu in owners:
                found.append(f"CPU {cpu} has two owners: {owners[cpu]} and {service}")
            owners[cpu] = service
    return found
