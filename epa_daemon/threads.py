# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The processes and threads of Open vSwitch on this host, from /proc, and their masks.

A strict snap may read /proc/<pid>/stat and task/<tid>/stat of any process, and not its program's
path; so a process is found by its name there, which Open vSwitch sets itself.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from epa_daemon import cpulist
from epa_daemon.affinity import Thread

NAMES = frozenset({"ovs-vswitchd", "ovsdb-server"})
# With --monitor a daemon has a parent that waits for it, and calls itself so.
_MONITOR = "monitor"
# Flag of kernel threads (linux/sched.h, PF_KTHREAD); they never become something else.
_KERNEL_THREAD = 0x00200000
# After so many looks also they are read again: a number may have gone to somebody else.
_LOOKS_TO_TRUST = 60
# A process so young may yet become another program: a shell that executes ovs-vswitchd.
_YOUNG_SECONDS = 1
# A PMD thread is pinned and named in its first moments, and must not be taken for another one.
_SETTLED_SECONDS = 0.1
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


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 8192)
    finally:
        os.close(descriptor)


def _stat(path: str) -> _Stat:
    content = _content(path)
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


def now() -> float:
    """Seconds in the clock in which the kernel counts when something started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def settled(thread: Thread, at: float) -> bool:
    """Whether a thread was old enough for its name when it was looked at."""
    return at - thread.start / TICKS_PER_SECOND > _SETTLED_SECONDS


class Finder:
    """Finds the processes; remembers the kernel's threads, which are the most of a large host."""

    def __init__(self) -> None:
        self._kernel: set[str] = set()
        self._others: set[str] = set()
        self._monitors: dict[int, int] = {}
        self._looks = 0

    def find(self, unreadable: Unreadable) -> list[Process]:
        """All processes of Open vSwitch that run now."""
        self._looks = (self._looks + 1) % _LOOKS_TO_TRUST
        listed = set(os.listdir("/proc"))
        self._kernel = self._kernel & listed if self._looks else set()
        self._monitors = {}
        young: set[str] = set()
        found = self._found(listed - self._kernel, unreadable, young)
        self._others = listed - young
        return found

    def started(self, unreadable: Unreadable) -> list[Process]:
        """Those that may have been started, or become what they are, since `find` looked."""
        return self._found(set(os.listdir("/proc")) - self._others, unreadable, set())

    def _found(
        self, names: Iterable[str], unreadable: Unreadable, young: set[str]
    ) -> list[Process]:
        """The processes among these entries of /proc; `young` gets the names of young ones."""
        found: list[tuple[Process, int]] = []
        born = (now() - _YOUNG_SECONDS) * TICKS_PER_SECOND
        for name in filter(str.isdecimal, names):
            stat = _tolerant(f"/proc/{name}/stat", unreadable)
            if stat is None or stat.state in b"ZX" or stat.start > born:
                young.add(name)
            if stat is None or stat.state in b"ZX":
                continue
            if stat.kernel:
                self._kernel.add(name)
            elif stat.name in NAMES:
                found.append((Process(int(name), stat.start, stat.name), stat.parent))
            elif stat.name == _MONITOR:
                self._monitors[int(name)] = stat.start
        return _with_monitors(found, self._monitors)


def _with_monitors(
    found: Iterable[tuple[Process, int]], monitors: Mapping[int, int]
) -> list[Process]:
    """The processes, and those of their parents that wait for them."""
    return [process for process, _ in found] + [
        Process(parent, monitors[parent], f"{process.name} monitor")
        for process, parent in found
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


def tids(pid: int, unreadable: Unreadable) -> list[int]:
    """The threads of a process; [] when it has gone or cannot be read."""
    path = f"/proc/{pid}/task"
    try:
        return [int(name) for name in os.listdir(path)]
    except (FileNotFoundError, ProcessLookupError):
        return []
    except OSError as error:
        unreadable(path, error)
        return []


def sleeps(pid: int) -> float:
    """How often the main thread has gone to sleep so far; infinity while it sleeps, or is gone.

    The main thread makes the others. The kernel copies the maker's mask when clone(2) begins, and
    lists the new thread when it is done: in between nobody can see it. A thread that sleeps is in
    no such call, and one that has slept in the meantime has left the call that it was in.
    """
    if _status(pid, pid, b"State")[:1] not in (b"R", b"D"):
        return math.inf
    return float(_status(pid, pid, b"voluntary_ctxt_switches") or math.inf)


def _status(pid: int, tid: int, field: bytes) -> bytes:
    """A field of proc_pid_status(5); b"" where that cannot be read."""
    try:
        content = _content(f"/proc/{pid}/task/{tid}/status")
    except OSError:
        return b""
    # The name comes first and may hold anything but a line's end.
    return content.partition(b"\n" + field + b":")[2].partition(b"\n")[0].strip()


def allowed(pid: int, tid: int) -> frozenset[int] | None:
    """The CPUs of a thread's mask, also those that are going offline or are; None when gone.

    sched_getaffinity(2) leaves those out from the moment on when one begins to go.
    """
    shown = _status(pid, tid, b"Cpus_allowed_list")
    return cpulist.parse(shown.decode("ascii")) if shown else None


def thread(pid: int, tid: int, unreadable: Unreadable) -> Thread | None:
    """One thread; None when it has gone or cannot be read."""
    # The mask first: a thread that is named pmd afterwards may have pinned itself meanwhile.
    mask = mask_of(tid, unreadable)
    stat = _tolerant(f"/proc/{pid}/task/{tid}/stat", unreadable)
    if mask is None or stat is None:
        return None
    return Thread(tid, stat.start, stat.name, mask, stat.cpu, stat.ticks)


def name(pid: int, tid: int) -> str:
    """What a thread calls itself now; "" when it has gone or cannot be read."""
    stat = _tolerant(f"/proc/{pid}/task/{tid}/stat", lambda _path, _error: None)
    return stat.name if stat else ""


def threads(process: Process, unreadable: Unreadable) -> Iterator[Thread]:
    """The threads of a process as they are now."""
    for tid in tids(process.pid, unreadable):
        seen = thread(process.pid, tid, unreadable)
        if seen:
            yield seen


def mask_of(tid: int, unreadable: Unreadable) -> frozenset[int] | None:
    """The CPUs that a thread may run on; None when it has gone or cannot be asked."""
    try:
        return frozenset(os.sched_getaffinity(tid))
    except ProcessLookupError:
        return None
    except OSError as error:
        unreadable(f"the mask of thread {tid}", error)
        return None


def set_mask(tid: int, cpus: frozenset[int]) -> None:
    """Let a thread run on these CPUs only. When this returns, it runs on none of the others.

    Raises:
        OSError: the kernel refuses; ProcessLookupError when the thread has gone.
    """
    os.sched_setaffinity(tid, cpus)
