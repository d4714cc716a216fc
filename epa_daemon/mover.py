# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Moving one thread, without harm to what a cpuset says about it.

The kernel cuts a mask to the thread's cpuset without a word, and says EINVAL when nothing is left
(sched_setaffinity(2)); the cpuset itself cannot be read from a strict snap. So a cut is noticed by
reading back.
"""

import errno
import time
from collections.abc import Callable, Iterable

from epa_daemon import affinity, threads
from epa_daemon.affinity import Thread
from epa_daemon.threads import Process

# So long at most is waited, for all processes together, for a main thread that keeps running.
_PATIENCE_SECONDS = 0.02
_PASS_SECONDS = 0.001


def move(pid: int, thread: Thread, mask: frozenset[int], via: frozenset[int]) -> bool:
    """Give a thread another mask.

    Args:
        pid: the thread's process.
        thread: as it was found; its mask is what it gets back.
        mask: the CPUs it should run on.
        via: CPUs to go to first. With a wide mask alone the thread would stay on the isolated CPU
            that it is on, or the kernel would choose any other one.

    Returns:
        Whether it has it. If not, the kernel has cut it, and it has the mask again that it had:
        its cpuset forbids some of these CPUs, or one of them is just coming online.

    Raises:
        OSError: the kernel refuses; ProcessLookupError when the thread has gone.
    """
    try:
        if via:
            threads.set_mask(thread.tid, via)
        threads.set_mask(thread.tid, mask)
    except OSError as error:
        if error.errno == errno.EINVAL and _takes(thread, thread.mask) and _any_online(mask):
            return False
        raise
    # Not sched_getaffinity: a CPU that is going offline is missing there, and in no cpuset's name.
    got = threads.allowed(pid, thread.tid)
    if got is None or not _any_online(mask - got):
        return True
    threads.set_mask(thread.tid, thread.mask)
    return False


def first_of(tid: int, masks: Iterable[frozenset[int]]) -> None:
    """Give a thread the first of these masks of which its cpuset, which may cut it, leaves any.

    Raises:
        OSError: the kernel refuses all of them; ProcessLookupError when the thread has gone.
    """
    refusal = OSError(errno.EINVAL, "Invalid argument")
    for mask in filter(None, masks):
        try:
            threads.set_mask(tid, mask)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            refusal = error
        else:
            return
    raise refusal


def spare_pmd(pid: int, tid: int) -> None:
    """Pin a thread where it has pinned itself, if it has just turned out to be a PMD thread.

    For one that was moved before it was old enough for its name.

    Raises:
        OSError: the kernel refuses.
    """
    core = affinity.pmd_core(threads.name(pid, tid))
    if core:
        threads.set_mask(tid, core)


def until_none_is_left(
    processes: Iterable[Process], moves: Callable[[Process], bool]
) -> list[Process]:
    """Move threads until none can be left behind that was being made meanwhile.

    Args:
        processes: whose threads are moved.
        moves: moves what is listed now of a process, and tells whether there was anything.

    Returns:
        Those whose main thread kept running for all of the time that it was given, so that a
        thread may still come out of it.
    """
    waiting = [process for process in processes if moves(process)]
    slept = {process: threads.sleeps(process.pid) for process in waiting}
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        waiting = [process for process in waiting if not _is_over(process, slept, moves)]
        if not waiting or time.monotonic() > deadline:
            return waiting
        time.sleep(_PASS_SECONDS)


def _is_over(
    process: Process, slept: dict[Process, float], moves: Callable[[Process], bool]
) -> bool:
    # In this order: whatever was begun before the sleep is listed after it.
    before = slept[process]
    has_slept = before == float("inf") or threads.sleeps(process.pid) > before
    return not moves(process) and has_slept


def _takes(thread: Thread, mask: frozenset[int]) -> bool:
    """Whether a thread may be given a mask at all."""
    try:
        threads.set_mask(thread.tid, mask)
    except OSError:
        return False
    return True


def _any_online(cpus: frozenset[int]) -> bool:
    """Whether a CPU is online now; one may have gone offline since the mask was made."""
    return any(_is_online(cpu) for cpu in cpus)


def _is_online(cpu: int) -> bool:
    try:
        with open(f"/sys/devices/system/cpu/cpu{cpu}/online", "rb") as file:
            return file.read(1) == b"1"
    except FileNotFoundError:
        return True  # A CPU that cannot go offline has no such file.
