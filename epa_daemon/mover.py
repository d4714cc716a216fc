# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Moving one thread, without harm to what a cpuset says about it.

The kernel cuts a mask to the thread's cpuset without a word, and says EINVAL when nothing is left
(sched_setaffinity(2)); the cpuset itself cannot be read from a strict snap. So a cut is noticed by
reading back.
"""

import errno

from epa_daemon import threads
from epa_daemon.affinity import Thread


def move(thread: Thread, mask: frozenset[int], via: frozenset[int] = frozenset()) -> bool:
    """Give a thread another mask.

    Args:
        thread: as it was found; its mask is what it gets back.
        mask: the CPUs it should run on.
        via: CPUs to go to first. With a wide mask alone the thread would stay on the isolated CPU
            that it is on, or the kernel would choose any other one.

    Returns:
        Whether it has it. If not, its cpuset forbids some of these CPUs, and it has the mask again
        that it had.

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
    got = threads.mask_of(thread.tid)
    if got is None or not _any_online(mask - got):
        return True
    threads.set_mask(thread.tid, thread.mask)
    return False


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
