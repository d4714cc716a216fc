# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Where the threads of Open vSwitch may run: on every online CPU that nobody owns. Pure.

The kernel balances no load onto the CPUs of isolcpus (admin-guide/kernel-parameters), so a mask
that includes them moves nothing there. Threads that handle packets and have been busy for a
while get a seat: an idle isolated CPU of their own, to which their mask is narrowed. All others
share the wide mask, and the kernel spreads them over the ordinary CPUs in it.
"""

import functools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

# Open vSwitch names its threads by what they do: handler12, revalidator13, pmd-c02/id:8, urcu3.
_PMD = "pmd"
_SEATED = ("handler", "revalidator")
_PMD_CORE = re.compile(r"pmd-c([0-9]{1,5})")
# Share of a CPU that makes a thread busy or calm, and for how many looks in a row it must be so:
# quick to give a seat, slow to take it back, so that a thread does not hop with its load.
BUSY_SHARE, BUSY_LOOKS = 0.5, 2
CALM_SHARE, CALM_LOOKS = 0.2, 10

_NOWHERE: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Cpus:
    """The CPUs of the host as they are now.

    Attributes:
        cores: CPUs that are hardware threads of one core, for cores with several.
        polled: CPUs that a PMD thread is pinned to, and never leaves.
    """

    online: frozenset[int]
    isolated: frozenset[int]
    owned: frozenset[int]
    cores: tuple[frozenset[int], ...] = ()
    polled: frozenset[int] = frozenset()

    @functools.cached_property
    def free(self) -> frozenset[int]:
        """What Open vSwitch may use."""
        return self.online - self.owned

    @functools.cached_property
    def ordinary(self) -> frozenset[int]:
        """The free CPUs on which the kernel balances load."""
        return self.free - self.isolated

    @functools.cached_property
    def idle(self) -> frozenset[int]:
        """The isolated CPUs that nobody owns or polls a port on."""
        return self.free & self.isolated - self.polled


@dataclass(frozen=True)
class Thread:
    """A thread at one look (proc_pid_stat(5)).

    Attributes:
        start: when it started, in clock ticks after boot; with `tid` it names the thread for good.
        cpu: where it last ran.
        ticks: CPU time that it has used, in clock ticks.
    """

    tid: int
    start: int
    name: str
    mask: frozenset[int]
    cpu: int
    ticks: int

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from a later thread with the same number."""
        return self.tid, self.start


@dataclass(frozen=True)
class Tracked:
    """What is remembered of a thread from look to look.

    Attributes:
        busy: looks in a row in which it was busy.
        calm: looks in a row in which it was calm.
        seat: the isolated CPU that it has for itself.
    """

    thread: Thread
    busy: int = 0
    calm: int = 0
    seat: int | None = None


Key = tuple[int, int]


def is_pmd(name: str) -> bool:
    """Whether a thread polls a port: Open vSwitch pins those itself, and they are not touched."""
    return name.startswith(_PMD)


def pmd_core(name: str) -> frozenset[int]:
    """The CPU that a PMD thread pins itself to, by its name; none where it does not say."""
    match = _PMD_CORE.match(name)
    return frozenset({int(match[1])}) if match else _NOWHERE


def polled(threads: Iterable[Thread]) -> frozenset[int]:
    """The CPUs that PMD threads are pinned to; one that is just starting has a wide mask."""
    pinned = (t.mask for t in threads if is_pmd(t.name) and len(t.mask) == 1)
    return _NOWHERE.union(*pinned)


def wanted(tracked: Tracked, cpus: Cpus) -> frozenset[int] | None:
    """The mask that a thread should have; None to leave it as it is.

    That is so for PMD threads, and where nothing is free: there is no better place then.
    """
    if is_pmd(tracked.thread.name) or not cpus.free:
        return None
    return cpus.free if tracked.seat is None else frozenset({tracked.seat})


def confined(before: frozenset[int], cpus: Cpus) -> frozenset[int]:
    """The mask for a thread whose cpuset forbids free CPUs: what it had, off owned CPUs.

    Where that leaves nothing it is asked for all free CPUs, which the kernel cuts to the cpuset.

    Args:
        before: the mask that it had before it was ever moved.
        cpus: the host now.
    """
    return before - cpus.owned or cpus.free


def follow(
    before: Mapping[Key, Tracked], threads: Iterable[Thread], ticks: float, cpus: Cpus
) -> dict[Key, Tracked]:
    """Learn from another look, and seat threads anew.

    Args:
        before: the result of the last look.
        threads: all that may be touched, and PMD threads.
        ticks: clock ticks since the last look.
        cpus: the host now.
    """
    seen = {thread.key: _observed(before.get(thread.key), thread, ticks) for thread in threads}
    return seated(seen, cpus)


def _observed(before: Tracked | None, thread: Thread, ticks: float) -> Tracked:
    if before is None or ticks <= 0:
        return Tracked(thread)
    share = (thread.ticks - before.thread.ticks) / ticks
    return Tracked(
        thread,
        busy=before.busy + 1 if share >= BUSY_SHARE else 0,
        calm=before.calm + 1 if share < CALM_SHARE else 0,
        seat=before.seat,
    )


def seated(threads: Mapping[Key, Tracked], cpus: Cpus) -> dict[Key, Tracked]:
    """Take back the seats that are lost or not used, and give the others to busy threads.

    A seated thread stays where it is as long as nobody owns its CPU and it is not calm for long.
    One that lost its CPU gets another one. What is left goes to busy threads, longest first. Cores
    of which somebody owns a hardware thread come last, then those with another seat; ties go to
    the lowest CPU.
    """
    result = dict(threads)
    waiting: list[Tracked] = []
    for key, tracked in threads.items():
        keeps = tracked.seat is not None and tracked.calm < CALM_LOOKS
        if keeps and tracked.seat in cpus.idle:
            continue
        if tracked.seat is not None:
            result[key] = replace(tracked, seat=None)
        if (keeps or tracked.busy >= BUSY_LOOKS) and tracked.thread.name.startswith(_SEATED):
            waiting.append(tracked)
    # Whoever had a seat comes first: its load is known to be worth one.
    waiting.sort(key=lambda t: (t.seat is None, -t.busy, t.thread.tid))
    taken = {t.seat for t in result.values() if t.seat is not None}
    for tracked in waiting:
        seat = _next_seat(cpus, taken)
        if seat is None:
            break
        taken.add(seat)
        result[tracked.thread.key] = replace(tracked, seat=seat)
    return result


def _next_seat(cpus: Cpus, taken: Collection[int]) -> int | None:
    def rank(cpu: int) -> tuple[bool, bool, int]:
        core = next((core for core in cpus.cores if cpu in core), _NOWHERE)
        return not core.isdisjoint(cpus.owned), not core.isdisjoint(taken), cpu

    return min(cpus.idle.difference(taken), key=rank, default=None)


def strays(before: Mapping[Key, Tracked], tracked: Tracked, cpus: Cpus) -> bool:
    """Whether a thread without a seat works on an isolated CPU, where nothing would move it.

    It happens to a thread whose CPU was taken away: the kernel chose the next one from the mask.
    """
    old = before.get(tracked.thread.key)
    worked = old is not None and old.thread.ticks != tracked.thread.ticks
    return worked and tracked.seat is None and tracked.thread.cpu in cpus.isolated
