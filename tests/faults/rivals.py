# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Clients that fight over too few CPUs, and what they know for sure while they do.

What a client knows follows from the order in which it sent and received: a CPU of which it was
told is its own from the reply until it sends what may give it up. Whose name begins with

- `kept` asks for everything, non-preemptive, so nobody may take anything from it;
- `taker` holds only explicit NUMA claims, which nobody may take either, and takes CPUs of others;
- `loser` asks for everything and may lose what it has: it holds no more than it was told of;
- `common` is used by several clients, in both pools: of these only the replies are judged.
"""

import collections
import itertools
import random
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epa_daemon import cpulist
from tests.faults import load, stories
from tests.faults.stories import Fields, Held, Step
from tests.faults.witness import Witness

POOLS = {"isolated": stories.HOST.isolated, "general": cpulist.parse(stories.GENERAL)}
CLIENTS = 8
COMMON = ["common-0", "common-1", "common-2"]
SURE = ("kept", "taker", "filler")
_NONE = frozenset[int]()


def is_sure(service: str) -> bool:
    """Whether nobody but its only client can take anything from it."""
    return service.startswith(SURE)


def request_of(service: str, chance: random.Random) -> Fields:
    """Anything that moves CPUs, within what the service's name says of it."""
    pool = "general" if service.endswith("0") else "isolated"
    if service.startswith("common"):
        pool = chance.choice([*POOLS])
    about: Fields = {"version": "1.0", "service_name": service, "pool": pool}
    if service.startswith("kept"):
        about["preemption_policy"] = "non-preemptive"
    elif service.startswith("common") and not chance.randrange(3):
        about["preemption_policy"] = chance.choice([None, "legacy", "non-preemptive"])
    if service.startswith("taker"):
        return about | chance.choice([_numa(chance), _numa(chance), _numa(chance), _RELEASE])
    sizes = [_cores(chance, heuristic=not is_sure(service)), _percent(pool, chance)]
    return about | chance.choice([*sizes, *sizes, _numa(chance), _RELEASE])


_RELEASE: Fields = {"action": "allocate_cores", "num_of_cores": -1}


def _numa(chance: random.Random) -> Fields:
    count = chance.choice([-1, 1, 2, 3, 5, 8])
    node = chance.randrange(2)
    return {"action": "allocate_numa_cores", "numa_node": node, "num_of_cores": count}


def _cores(chance: random.Random, heuristic: bool) -> Fields:
    count = chance.choice([1, 2, 3, 4, 6, 9, 0 if heuristic else 5])
    return {"action": "allocate_cores", "num_of_cores": count}


def _percent(pool: str, chance: random.Random) -> Fields:
    percents = [-1, 0, 1, 3, 5, 8] if pool == "isolated" else [-1, 0, 6, 15, 30, 45]
    return {"action": "allocate_cores_percent", "percent": chance.choice(percents)}


@dataclass
class Known:
    """What the clients of one daemon know; each tells of its requests and replies.

    Attributes:
        told: the stories of the sure services.
        wrong: everything that contradicts what is known; [] for nothing.
        counts: changes that were granted, and refusals.
    """

    told: Witness = field(default_factory=Witness)
    wrong: list[str] = field(default_factory=list[str])
    counts: collections.Counter[str] = field(default_factory=collections.Counter[str])
    _held: dict[str, Held] = field(default_factory=dict[str, Held])
    _settled: dict[str, int] = field(default_factory=dict[str, int])
    _sure: dict[str, dict[int, int]] = field(default_factory=dict[str, dict[int, int]])
    _moments: "itertools.count[int]" = field(default_factory=itertools.count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin_anew(self, seen: Mapping[str, Held]) -> None:
        """What is seen now is what everybody holds."""
        sole = {name: held for name, held in seen.items() if name not in COMMON}
        now = next(self._moments)
        self._held, self._settled = dict(sole), dict.fromkeys(sole, now)
        self._sure = {s: dict.fromkeys(h.cpus, now) for s, h in sole.items() if is_sure(s)}
        self.told.begin_anew({name: held for name, held in sole.items() if is_sure(name)})

    def moment(self) -> int:
        """Now; what is known since an earlier one was so at any time from here on."""
        return next(self._moments)

    def asks(self, service: str, request: Fields) -> int:
        """Before a request is sent: what it may give up is sure no more. Returns the moment."""
        with self._lock:
            self._settled.pop(service, None)
            if is_sure(service):
                self.told.note({"service": service, "request": request})
                stays = _stays(request, self._held.get(service, stories.NOTHING).cpus)
                sure = self._sure.get(service, {})
                self._sure[service] = {cpu: sure[cpu] for cpu in sure if cpu in stays}
            return next(self._moments)

    def hears(self, service: str, request: Fields, reply: Fields, asked: int) -> None:
        """When a reply has come."""
        with self._lock:
            now = next(self._moments)
            self.counts[reply.get("code", "granted")] += 1
            if is_sure(service):
                self.told.note({"service": service, "reply": reply})
            if "error" not in reply:
                self._judge(service, reply, asked)
            if service not in COMMON:
                self._keep(
                    service, stories.after(Step(request, reply), self._before(service)), now
                )

    def _before(self, service: str) -> Held:
        return self._held.get(service, stories.NOTHING)

    def _keep(self, service: str, held: Held, now: int) -> None:
        self._held[service], self._settled[service] = held, now
        if is_sure(service):
            sure = self._sure.get(service, {})
            self._sure[service] = {cpu: sure.get(cpu, now) for cpu in held.cpus}

    def _judge(self, service: str, reply: Fields, asked: int) -> None:
        """Nothing is granted, or shown as shared, that somebody else has known to own since."""
        named = "cores_allocated" if "numa_node" in reply else "allocated_cores"
        granted = cpulist.parse(reply[named])
        shared = cpulist.parse(reply.get("shared_cpus", ""))
        for other, since in self._sure.items():
            if other == service:
                continue
            # What a sure service was granted it still has: nobody else may know to own it now.
            owned = {cpu for cpu in since if is_sure(service) or since[cpu] <= asked}
            if twice := granted & owned:
                self.wrong.append(f"{service} was granted {sorted(twice)} of {other}: {reply}")
            if lent := shared & {cpu for cpu in owned if since[cpu] <= asked}:
                self.wrong.append(f"{service} was shown {sorted(lent)} of {other}: {reply}")

    def sees(self, pool: str, listing: Fields, asked: int) -> None:
        """When a listing has come that was asked for at a moment."""
        self.wrong += wrong_in(listing, POOLS[pool])
        with self._lock:
            self._compare(pool, listing, asked)

    def _compare(self, pool: str, listing: Fields, asked: int) -> None:
        seen = owners_in(listing)
        for service, moment in self._settled.items():
            # Nobody knows of the others what they held when the daemon looked.
            held = self._held[service].cpus & POOLS[pool]
            shown = seen.get(service, _NONE)
            if moment <= asked and (shown != held if is_sure(service) else not shown <= held):
                self.wrong.append(f"{service} holds {sorted(held)} and is shown {sorted(shown)}")
        for service, since in self._sure.items():
            sure = {cpu for cpu in since if since[cpu] <= asked} & POOLS[pool]
            if gone := sure - seen.get(service, _NONE):
                self.wrong.append(f"{service} owns {sorted(gone)} and is not shown so")

    def lies(self, seen: Mapping[str, Held]) -> list[str]:
        """In what a daemon that was started again disagrees; [] for nothing."""
        sure = {name: held for name, held in seen.items() if is_sure(name)}
        found = stories.lies(self.told.stories, sure)
        for service in self._settled.keys() - sure.keys():
            held, shown = self._before(service).cpus, seen.get(service, stories.NOTHING).cpus
            if not shown <= held:
                found.append(f"{service} holds {sorted(held)} and is shown {sorted(shown)}")
        return found


def _stays(request: Fields, held: frozenset[int]) -> frozenset[int]:
    """CPUs that a service keeps whatever the reply will be: a growth keeps what is there."""
    count = request.get("num_of_cores", -1)
    if request["action"] == "allocate_numa_cores":
        assert stories.HOST.nodes is not None
        inside = held & stories.HOST.nodes[request["numa_node"]]
        return held if count >= len(inside) else held - inside
    return held if count >= len(held) else _NONE


def owners_in(listing: Fields) -> dict[str, frozenset[int]]:
    """Service -> CPUs that a listing shows as its own."""
    entries = listing["allocations"]
    return {e["service_name"]: cpulist.parse(e["allocated_cores"]) for e in entries}


def wrong_in(listing: Fields, pool: frozenset[int]) -> list[str]:
    """What a listing says that cannot be, of a pool with all its CPUs online."""
    owned = [cpu for cpus in owners_in(listing).values() for cpu in sorted(cpus)]
    counts = [entry["cores_count"] for entry in listing["allocations"]]
    twice = sorted(cpu for cpu, times in collections.Counter(owned).items() if times > 1)
    checks: dict[str, Any] = {
        f"CPUs {twice} have two owners": twice,
        "a service is shown twice": len(counts) != len(owners_in(listing)),
        "owned CPUs are outside the pool": set(owned) - pool,
        "an entry without CPUs": 0 in counts,
        "wrong counts": sum(counts) != len(owned),
        "wrong total_allocations": listing["total_allocations"] != len(counts),
        "wrong total_allocated_cpus": listing["total_allocated_cpus"] != len(owned),
        "wrong total_available_cpus": listing["total_available_cpus"] != len(pool),
        "wrong remaining_available_cpus": listing["remaining_available_cpus"]
        != len(pool - set(owned)),
        "wrong eligible_cpus": cpulist.parse(listing["cpu_pool"]["eligible_cpus"]) != pool,
    }
    return [f"{text}: {listing}" for text, found in checks.items() if found]


class Rivals:
    """Clients with services of their own and in common, until the daemon has gone."""

    def __init__(self, path: Path, known: Known):
        self._path = path
        self._known = known
        self._threads = ThreadPoolExecutor(CLIENTS)
        self._lives: list[Future[None]] = []

    def start(self, seed: int) -> None:
        self._lives = [self._threads.submit(self._live, n, seed) for n in range(CLIENTS)]

    def join(self) -> None:
        self._threads.shutdown()
        for life in self._lives:
            life.result()

    def _live(self, number: int, seed: int) -> None:
        chance = random.Random(f"{seed} {number}")
        kind = ("kept", "taker", "loser", "common")[number % 4]
        own = [f"{kind}{number}-{i}" for i in range(3)] if kind != "common" else COMMON
        while True:
            service = chance.choice([*own, *own, *COMMON])
            request = request_of(service, chance)
            asked = self._known.asks(service, request)
            try:
                reply = load.exchange(self._path, request)
            except (OSError, ValueError):
                return
            self._known.hears(service, request, reply, asked)
