# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The processes and threads of Open vSwitch on this host, from /proc, and their masks.

A strict snap may read /proc/<pid>/stat and task/<tid>/stat of any process, and not its program's
path; so a process is found by its name there, which Open vSwitch sets itself.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from epa_daemon.affinity import Thread

NAMES = frozenset({"ovs-vswitchd", "ovsdb-server"})
# With --monitor a daemon has a parent that waits for it, and calls itself so.
_MONITOR = "monitor"
# Flag of kernel threads (linux/sched.h, PF_KTHREAD); they never become something else.
_KERNEL_THREAD = 0x00200000
# After so many looks also they are read again: a number may have gone to somebody else.
_LOOKS_TO_TRUST = 60
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

# Told of a file below /proc that is there and cannot be read.
Unreadable = Callable[[str, OSError], None]


@dataclass(frozen=True)
class Process:
    """A process of Open vSwitch."""

    pid: int
    start: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})"


@dataclass(frozen=True)
class _Stat:
    """What counts here of a stat file (proc_pid_stat(5))."""

    name: str
    parent: int
    kernel: bool
    state: bytes
    ticks: int
    start: int
    cpu: int


def _stat(path: str) -> _Stat:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
    # The name may hold anything, also brackets and blanks; after it there are only numbers.
    end = content.rindex(b")")
    fields = content[end + 2 :].split()
    return _Stat(
        name=content[content.index(b"(") + 1 : end].decode("ascii", "backslashreplace"),
        parent=int(fields[1]),
        kernel=bool(int(fields[6]) & _KERNEL_THREAD),
        state=fields[0],
        ticks=int(fields[11]) + int(fields[12]),
        start=int(fields[19]),
        cpu=int(fields[36]),
    )


class Finder:
    """Finds the processes; remembers the kernel's threads, which are the most of a large host."""

    def __init__(self) -> None:
        self._kernel: set[str] = set()
        self._looks = 0

    def find(self, unreadable: Unreadable) -> list[Process]:
        """All processes of Open vSwitch that run now."""
        self._looks = (self._looks + 1) % _LOOKS_TO_TRUST
        if not self._looks:
            self._kernel.clear()
        found: dict[int, tuple[Process, int]] = {}
        monitors: dict[int, int] = {}
        for name in os.listdir("/proc"):
            if not name.isdecimal() or name in self._kernel:
                continue
            stat = _tolerant(f"/proc/{name}/stat", unreadable)
            if stat is None or stat.state in b"ZX":
                continue
            if stat.kernel:
                self._kernel.add(name)
            elif stat.name in NAMES:
                found[int(name)] = Process(int(name), stat.start, stat.name), stat.parent
            elif stat.name == _MONITOR:
                monitors[int(name)] = stat.start
        return [process for process, _ in found.values()] + [
            Process(parent, monitors[parent], f"{process.name} monitor")
            for process, parent in found.values()
            if parent in monitors
        ]


def _tolerant(path: str, unreadable: Unreadable) -> _Stat | None:
    """A stat file; None where its owner has gone, or is told to be unreadable."""
    try:
        return _stat(path)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except (OSError, ValueError, IndexError) as error:
        unreadable(path, error if isinstance(error, OSError) else OSError(0, str(error)))
        return None


def tids(pid: int) -> list[int]:
    """The threads of a process; [] when it has gone."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []


def may_be_cloning(pid: int) -> bool:
    """Whether the main thread, which makes the others, may be in the middle of clone(2).

    The kernel copies the maker's mask when it begins, and lists the new thread when it has done:
    in between nobody can see it. A thread that sleeps is in no such call.
    """
    stat = _tolerant(f"/proc/{pid}/task/{pid}/stat", lambda _path, _error: None)
    return stat is not None and stat.state in b"RD"


def thread(pid: int, tid: int, unreadable: Unreadable) -> Thread | None:
    """One thread; None when it has gone or cannot be read."""
    # The mask first: a thread that is named pmd afterwards may have pinned itself meanwhile.
    mask = mask_of(tid)
    stat = _tolerant(f"/proc/{pid}/task/{tid}/stat", unreadable)
    if mask is None or stat is None:
        return None
    return Thread(tid, stat.start, stat.name, mask, stat.cpu, stat.ticks)


def threads(process: Process, unreadable: Unreadable) -> Iterator[Thread]:
    """The threads of a process as they are now."""
    try:
        found = tids(process.pid)
    except OSError as error:
        unreadable(f"/proc/{process.pid}/task", error)
        return
    for tid in found:
        seen = thread(process.pid, tid, unreadable)
        if seen:
            yield seen


def mask_of(tid: int) -> frozenset[int] | None:
    """The CPUs that a thread may run on; None when it has gone."""
    try:
        return frozenset(os.sched_getaffinity(tid))
    except ProcessLookupError:
        return None


def set_mask(tid: int, cpus: frozenset[int]) -> None:
    """Let a thread run on these CPUs only. When this returns, it runs on none of the others.

    Raises:
        OSError: the kernel refuses; ProcessLookupError when the thread has gone.
    """
    os.sched_setaffinity(tid, cpus)
