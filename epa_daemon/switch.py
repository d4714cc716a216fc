# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The switch: a file that is on when it has any content. Followed without waking up for nothing.

The folder is watched for names that come and go and the file for its content, because Open
vSwitch keeps its database in the same folder and writes to it all the time. Where the folder is
missing, its nearest parent is watched until it appears.
"""

import asyncio
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from epa_daemon import inotify
from epa_daemon.inotify import Inotify

_GOING = inotify.DELETE_SELF | inotify.MOVE_SELF
_NAMES = inotify.CREATE | inotify.DELETE | inotify.MOVED_FROM | inotify.MOVED_TO | inotify.ONLYDIR
_FOLDER = _NAMES | _GOING | inotify.DONT_FOLLOW
_CONTENT = inotify.MODIFY | inotify.ATTRIB | _GOING | inotify.DONT_FOLLOW
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_POLL_SECONDS = 1.0
# While there is no folder, or a snap's missing connection keeps the file from being read.
_SLOW_POLL_SECONDS = 10.0
# Who writes to the file by `>` empties it first.
_DOUBT_SECONDS = 0.05
_CONNECT = "; connect the plug: snap connect epa-orchestrator:etc-openvswitch (no restart needed)"


def read(path: Path) -> tuple[bool, str | None]:
    """Whether a switch is on, and what is wrong with it, in which case it counts as off."""
    try:
        # Not blocking: it might be a pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(path, flags)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return False, f"{path} is not a regular file; it counts as off"
            return bool(os.read(descriptor, 1)), None
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return False, None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False, f"{path} is a link; it counts as off"
        denied = isinstance(error, PermissionError) and "SNAP_NAME" in os.environ
        text = f"{path} cannot be read and counts as off: {error.strerror}"
        return False, text + (_CONNECT if denied else "")


class Switch:
    """Follows a switch file and tells of every change."""

    def __init__(self, path: Path, changed: Callable[[], None]):
        self.path = path
        self.on = False
        self.problem: str | None = None
        self._changed = changed
        self._inotify: Inotify | None = None
        self._watches: set[int] = set()
        self._poll: asyncio.TimerHandle | None = None
        self._doubt: asyncio.TimerHandle | None = None

    @property
    def followed(self) -> Literal["inotify", "poll"]:
        """How changes are noticed."""
        return "inotify" if self._poll is None else "poll"

    def start(self) -> None:
        """Look, and follow from now on; `changed` is called if it is on or has a problem."""
        try:
            self._inotify = Inotify()
            asyncio.get_running_loop().add_reader(self._inotify.descriptor, self._woken)
        except OSError:
            self._inotify = None  # `followed` says it: there may be no instance left.
        self._look()

    def stop(self) -> None:
        """Follow no longer."""
        if self._inotify:
            asyncio.get_running_loop().remove_reader(self._inotify.descriptor)
            self._inotify.close()
            self._inotify = None
        for timer in (self._poll, self._doubt):
            if timer:
                timer.cancel()

    def _woken(self) -> None:
        assert self._inotify is not None
        self._inotify.drain()
        self._look()

    def _look(self, sure: bool = False) -> None:
        # Watch first and read then: what happens in between wakes us again.
        watched = self._watch()
        found = read(self.path)
        if self.on and not found[0] and not sure:
            if self._doubt is None:
                loop = asyncio.get_running_loop()
                self._doubt = loop.call_later(_DOUBT_SECONDS, self._look, True)
            return
        if self._doubt:
            self._doubt.cancel()
            self._doubt = None
        before = self.on, self.problem
        self.on, self.problem = found
        self._poll_again(watched)
        if before != (self.on, self.problem):
            self._changed()

    def _poll_again(self, watched: bool) -> None:
        if self._poll:
            self._poll.cancel()
        self._poll = None
        if not watched or self.problem:
            there = not watched and os.path.isdir(self.path.parent)
            seconds = _POLL_SECONDS if there else _SLOW_POLL_SECONDS
            self._poll = asyncio.get_running_loop().call_later(seconds, self._look)

    def _watch(self) -> bool:
        """Watch what is there of the path; False where that cannot be done."""
        if self._inotify is None:
            return False
        armed: set[int] = set()
        try:
            self._watch_folder(self._inotify, armed)
            self._watch_file(self._inotify, armed)
        except OSError:
            return False  # Denied, a link instead of a folder, or no watch left.
        finally:
            for old in self._watches - armed:
                self._inotify.forget(old)
            self._watches = armed
        return True

    def _watch_folder(self, watcher: Inotify, armed: set[int]) -> None:
        """Watch the folder, or the nearest parent; again if it came meanwhile."""
        folder, missing = self.path.parent, None
        while True:
            try:
                watch = watcher.watch(str(folder), _FOLDER)
            except OSError as error:
                if error.errno not in _ABSENT or os.path.lexists(folder):
                    raise
                folder, missing = folder.parent, folder
                continue
            if missing is None or not os.path.lexists(missing):
                armed.add(watch)
                return
            watcher.forget(watch)
            folder, missing = self.path.parent, None

    def _watch_file(self, watcher: Inotify, armed: set[int]) -> None:
        try:
            armed.add(watcher.watch(str(self.path), _CONTENT))
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
