# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Who is at the other end of a connection, by the kernel's word alone."""

import errno
import os
import re
import select
import socket
import struct
import sys
from dataclasses import dataclass, field

# struct ucred of unix(7): pid, uid, gid.
_UCRED = struct.Struct("iII")
# Not in Python's socket module; of asm-generic/socket.h.
_SO_PEERGROUPS = 59
_SO_PEERPIDFD = 77
# Units of snapd: snap.<name>.<app>.service, snap.<name>.<app>-<uuid>.scope,
# snap.<name>.hook.<hook>-<uuid>.scope, and snap.<name>+<component>.hook.<hook>-<uuid>.scope, whose
# "+" systemd writes as \x2b. Quota groups are slices: snap.<group>.slice.
_SNAP = re.compile(
    rb"snap\.([a-z0-9-]+(?:_[a-z0-9]+)?)(?:(?:\\x2b|\+)[a-z0-9-]+\.hook)?\.[^.].*\.(?:service|scope)"
)
_OWN_SNAP = os.environ.get("SNAP_INSTANCE_NAME", "")


@dataclass(frozen=True)
class Peer:
    """The process that connected, as the kernel vouches for it (SO_PEERCRED).

    Attributes:
        connection: tells more of it while it is open; None where nobody has to know.
    """

    pid: int
    uid: int
    gid: int
    connection: socket.socket | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"uid {self.uid} pid {self.pid}"

    @property
    def administrator(self) -> bool:
        """Root, or the user that the daemon itself runs as."""
        return self.uid in (0, os.geteuid())

    def groups(self) -> frozenset[int]:
        """Its group and its supplementary groups, as they were when it connected.

        Only its group where the kernel does not tell, or where there are more than 256.
        """
        own = frozenset({self.gid})
        try:
            raw = self._ask(_SO_PEERGROUPS, 1024)
        except OSError:
            return own
        return own.union(struct.unpack(f"{len(raw) // 4}I", raw))

    def has_closed(self) -> bool:
        """Whether nobody will read a reply: the peer, or we, closed the connection.

        One that has only finished sending (half-closed) still reads.
        """
        if self.connection is None:
            return False
        if self.connection.fileno() < 0:
            return True
        poller = select.poll()
        poller.register(self.connection, 0)
        return any(events & select.POLLHUP for _, events in poller.poll(0))

    def snap(self) -> str | None:
        """The snap whose process this is, by its control group; "" for none, None for unknown.

        It is the process that made the connection. Once that has ended, its number may be
        another one's: what is read then counts for nothing. (Kernels before 6.5 do not tell.)
        """
        try:
            pidfd = self._pidfd()
            try:
                snap = snap_in(_read(f"/proc/{self.pid}/cgroup"), self.uid)
                return None if pidfd is not None and _ended(pidfd) else snap
            finally:
                if pidfd is not None:
                    os.close(pidfd)
        except OSError:
            return None

    def _ask(self, option: int, size: int) -> bytes:
        if self.connection is None:
            raise OSError("not connected")
        return self.connection.getsockopt(socket.SOL_SOCKET, option, size)

    def _pidfd(self) -> int | None:
        try:
            return int.from_bytes(self._ask(_SO_PEERPIDFD, 4), sys.byteorder, signed=True)
        except OSError as error:
            if error.errno == errno.ENOPROTOOPT:
                return None
            raise


def of(connection: socket.socket) -> Peer:
    """The peer of a connected Unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(pid, uid, gid, connection)


def snap_in(cgroup: bytes, uid: int) -> str | None:
    """The snap that a process of this user is in, by its /proc/<pid>/cgroup; see `Peer.snap`.

    Only the hierarchies count that systemd keeps processes in: the unified one and name=systemd.
    """
    lines = [line.split(b":", 2) for line in cgroup.splitlines()]
    paths = [x[2] for x in lines if len(x) == 3 and (not x[1] or x[1].startswith(b"name="))]
    found = {_snap_of(path, uid) for path in paths}
    named = found - {""}
    if len(named) > 1 or not found:
        return None
    return named.pop() if named else ""


def _snap_of(path: bytes, uid: int) -> str | None:
    """The snap that a path of control groups names, "" for none, None for unknown.

    The outermost unit counts: below its own, a service may make groups of any name. In the part
    of the tree that is a user's own (user.slice), that user names the groups, so there they say
    nothing of anybody but root.
    """
    units = [name for name in path.split(b"/") if _may_tell(name)]
    if not units or not units[0].startswith(b"snap."):
        return ""
    found = _SNAP.fullmatch(units[0])
    if found is None or (uid != 0 and path.startswith(b"/user.slice/")):
        return None
    return found[1].decode()


def _may_tell(name: bytes) -> bool:
    """Whether a group is a unit's, or looks like a snap's; slices and users' managers hold any."""
    if name.endswith(b".slice") or (name.startswith(b"user@") and name.endswith(b".service")):
        return False
    return name.endswith((b".service", b".scope")) or name.startswith(b"snap.")


def is_foreign(snap: str | None) -> bool:
    """Whether this is, or might be, another snap than the daemon's own."""
    return snap is None or snap not in ("", _OWN_SNAP)


def _ended(pidfd: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(0))


def _read(path: str) -> bytes:
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(opened, 16384)
    finally:
        os.close(opened)
