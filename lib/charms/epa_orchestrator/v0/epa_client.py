# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Client of the EPA Orchestrator: isolated CPUs and hugepages over its Unix socket.

Needs nothing but the standard library. It also works with older daemons, which leave out the
fields `pool`, `preemption_policy`, `supported_cpu_features`, `cpu_pool` and `code`.

    from charms.epa_orchestrator.v0 import epa_client

    client = epa_client.EpaClient()
    try:
        grant = client.allocate_numa_cores("my-service", numa_node=0, num_of_cores=4)
    except epa_client.Refused as error:
        print("no CPUs:", error)
    else:
        print("pin to", grant["cores_allocated"])

Used as a context manager, the client keeps one connection for all its requests:

    with epa_client.EpaClient() as client:
        for node in (0, 1):
            client.release_numa_cores("my-service", numa_node=node)
"""

import contextlib
import json
import socket
from typing import Any

# LIBID is assigned when the library is registered; until then it is a placeholder.
LIBID = "00000000000000000000000000000000"
LIBAPI = 0
LIBPATCH = 2

DEFAULT_SOCKET = "/var/snap/epa-orchestrator/current/data/epa.sock"
RELEASE = -1

Reply = dict[str, Any]


class EpaError(Exception):
    """Base of all errors of this library."""


class NotRunning(EpaError):
    """Nothing listens on the socket: the daemon is stopped, starting, or not installed."""


class NotPermitted(EpaError):
    """This user may not connect, or may only read."""


class NoReply(EpaError):
    """The daemon did not answer, in time or not at all, or not with JSON; may be tried again."""


class Refused(EpaError):
    """The daemon answered with an error, which is final and changed nothing.

    Attributes:
        text: the daemon's sentence.
        code: machine-readable; "" from older daemons.
        reply: the whole reply.
    """

    def __init__(self, reply: Reply):
        self.text = str(reply.get("error"))
        self.code = str(reply.get("code") or "")
        self.reply = reply
        super().__init__(self.text)


class EpaClient:
    """Requests to one daemon. Every method raises the four errors above.

    Args:
        socket_path: where the daemon listens.
        timeout: seconds for each single step of a request (connect, send, receive).
    """

    def __init__(self, socket_path: str = DEFAULT_SOCKET, timeout: float = 30.0):
        self._path = socket_path
        self._timeout = timeout
        self._keep_alive = False
        self._connection: socket.socket | None = None

    def __enter__(self) -> "EpaClient":
        """Keep the connection between requests."""
        self._keep_alive = True
        return self

    def __exit__(self, *exc: object) -> None:
        """Close the connection."""
        self._keep_alive = False
        self._close()

    def allocate_cores(self, service: str, num_of_cores: int = 0, **options: Any) -> Reply:
        """Hold this many CPUs; 0 leaves the number to the daemon.

        Args:
            service: who holds them.
            num_of_cores: the count.
            options: `pool` ("isolated", "general"), `preemption_policy` ("legacy",
                "non-preemptive").
        """
        return self.request(
            "allocate_cores", service_name=service, num_of_cores=num_of_cores, **options
        )

    def allocate_cores_percent(self, service: str, percent: int, **options: Any) -> Reply:
        """Hold a share of the whole pool; options as in `allocate_cores`."""
        return self.request(
            "allocate_cores_percent", service_name=service, percent=percent, **options
        )

    def allocate_numa_cores(
        self, service: str, numa_node: int, num_of_cores: int, **options: Any
    ) -> Reply:
        """Hold this many CPUs of one NUMA node; options as in `allocate_cores`."""
        return self.request(
            "allocate_numa_cores",
            service_name=service,
            numa_node=numa_node,
            num_of_cores=num_of_cores,
            **options,
        )

    def release_cores(self, service: str, **options: Any) -> Reply:
        """Give back all CPUs of a service; option `pool`."""
        return self.allocate_cores(service, RELEASE, **options)

    def release_numa_cores(self, service: str, numa_node: int, **options: Any) -> Reply:
        """Give back the CPUs of a service in one NUMA node; option `pool`."""
        return self.allocate_numa_cores(service, numa_node, RELEASE, **options)

    def list_allocations(self, **options: Any) -> Reply:
        """List the owners of one pool; option `pool`."""
        return self.request("list_allocations", **options)

    def get_memory_info(self, service: str = "") -> Reply:
        """Hugepage capacity and records of every node."""
        return self.request("get_memory_info", service_name=service)

    def allocate_hugepages(self, service: str, count: int, node_id: int, size_kb: int) -> Reply:
        """Record this many hugepages for a service."""
        return self.request(
            "allocate_hugepages",
            service_name=service,
            hugepages_requested=count,
            node_id=node_id,
            size_kb=size_kb,
        )

    def release_hugepages(self, service: str, node_id: int, size_kb: int) -> Reply:
        """Remove a service's hugepage record."""
        return self.allocate_hugepages(service, RELEASE, node_id, size_kb)

    def get_topology(self) -> Reply:
        """The host map with owners (feature `topology`)."""
        return self.request("get_topology")

    def get_health(self) -> Reply:
        """The health report (feature `health`)."""
        return self.request("get_health")

    def get_ovs_affinity(self) -> Reply:
        """Where Open vSwitch's threads may run; daemons with the feature `ovs-affinity`."""
        return self.request("get_ovs_affinity")

    def get_history(
        self,
        service: str | None = None,
        since: str | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Reply:
        """What happened, the newest events first (feature `history`).

        Args:
            service: only this one; None for all.
            since: a time in ISO 8601; None for all that is kept.
            before: the `next` of the page before this one.
            limit: so many events at most; a page may be shorter.
        """
        return self.request(
            "get_history", service_name=service, since=since, before=before, limit=limit
        )

    def request(self, action: str, **fields: Any) -> Reply:
        """Send one request and return its reply."""
        content = {"version": "1.0", "action": action, **fields}
        raw = self._exchange_kept(content) if self._keep_alive else self._exchange(content)
        try:
            reply: Any = json.loads(raw)
        except ValueError as error:
            raise NoReply(f"the reply from {self._path} is not JSON: {raw[:200]!r}") from error
        if not isinstance(reply, dict):
            raise NoReply(f"the reply from {self._path} is not an object: {raw[:200]!r}")
        if "error" in reply:
            refused = Refused(reply)  # pyright: ignore[reportUnknownArgumentType]
            if refused.code == "not-permitted":
                raise NotPermitted(refused.text) from refused
            raise refused
        return reply  # pyright: ignore[reportUnknownVariableType]

    def _exchange(self, content: Reply) -> bytes:
        with self._connect() as connection:
            return self._roundtrip(connection, json.dumps(content).encode(), until=None)

    def _exchange_kept(self, content: Reply) -> bytes:
        if self._connection is not None:
            # The daemon may have closed it meanwhile; every action may safely be sent again.
            with contextlib.suppress(NoReply):
                return self._read_kept(self._connection, json.dumps(content).encode() + b"\n")
            self._close()
        self._connection = self._connect()
        return self._read_kept(
            self._connection, json.dumps({**content, "keep_alive": True}).encode()
        )

    def _read_kept(self, connection: socket.socket, request: bytes) -> bytes:
        try:
            raw = self._roundtrip(connection, request, until=b"\n")
        except NoReply:
            self._close()
            raise
        if not raw.endswith(b"\n"):
            self._close()  # An older daemon: it does not keep connections.
        return raw

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(self._timeout)
        try:
            connection.connect(self._path)
        except OSError as error:
            connection.close()
            if isinstance(error, FileNotFoundError | ConnectionRefusedError):
                raise NotRunning(f"no daemon listens on {self._path}") from error
            if isinstance(error, PermissionError):
                raise NotPermitted(f"no permission to connect to {self._path}") from error
            raise NoReply(f"cannot connect to {self._path}: {error}") from error
        return connection

    def _roundtrip(self, connection: socket.socket, request: bytes, until: bytes | None) -> bytes:
        """Send, and receive to the end of the stream or of the line."""
        received = bytearray()
        try:
            # A request that the daemon refuses half-way has an answer all the same.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(request)
            while until is None or not received.endswith(until):
                data = connection.recv(65536)
                if not data:
                    break
                received += data
        except OSError as error:
            if not received:
                raise NoReply(f"no reply from {self._path}: {error}") from error
        if not received:
            raise NoReply(f"{self._path} closed the connection without a reply")
        return bytes(received)

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
