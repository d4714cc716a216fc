# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Who is at the other end of a connection, and what they may do."""

import os
import re
import socket
import struct
from dataclasses import dataclass

# struct ucred of unix(7): pid, uid, gid.
_UCRED = struct.Struct("iII")
_SNAP = re.compile(rb"[/.]snap\.([a-z0-9-]+(?:_[a-z0-9]+)?)\.")


@dataclass(frozen=True)
class Peer:
    """The process that connected, as the kernel vouches for it (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"uid {self.uid} pid {self.pid}"


def of(connection: socket.socket) -> Peer:
    """The peer of a connected Unix socket."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return Peer(*_UCRED.unpack(raw))


def may_change(peer: Peer) -> bool:
    """Only uid 0 and the daemon's own uid may change allocations; others may read."""
    return peer.uid in (0, os.geteuid())


def snap_of(peer: Peer) -> str:
    """The snap that the peer's process belongs to, by its cgroup; "" for none or unknown.

    For the record only, never for a decision: the process may be gone and its pid reused.
    """
    try:
        cgroup = os.open(f"/proc/{peer.pid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
        try:
            match = _SNAP.search(os.read(cgroup, 4096))
        finally:
            os.close(cgroup)
    except OSError:
        return ""
    return match[1].decode() if match else ""
