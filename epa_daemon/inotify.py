# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The three calls of inotify(7), which Python's library does not have."""

import ctypes
import os

# linux/inotify.h
MODIFY = 0x0002
ATTRIB = 0x0004
MOVED_FROM = 0x0040
MOVED_TO = 0x0080
CREATE = 0x0100
DELETE = 0x0200
DELETE_SELF = 0x0400
MOVE_SELF = 0x0800
ONLYDIR = 0x01000000
DONT_FOLLOW = 0x02000000


class Inotify:
    """An inotify instance; `descriptor` is ready for reading when something has happened.

    Raises:
        OSError: the kernel refuses one (the limit of instances, or confinement).
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = _checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "")

    def watch(self, path: str, events: int) -> int:
        """Watch a file or folder; returns the number of the watch, one for each inode.

        Raises:
            OSError: it is not there, or cannot be watched.
        """
        added = self._libc.inotify_add_watch(self.descriptor, os.fsencode(path), events)
        return _checked(added, path)

    def forget(self, watch: int) -> None:
        """End a watch; one whose file is gone has ended by itself."""
        self._libc.inotify_rm_watch(self.descriptor, watch)

    def drain(self) -> None:
        """Take what has happened off the queue; what it was is found by looking."""
        try:
            os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return

    def close(self) -> None:
        """End all watches."""
        os.close(self.descriptor)


def _checked(result: int, path: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
