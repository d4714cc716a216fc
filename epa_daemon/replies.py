# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The wire, outwards: the replies, their fields in wire order (contract, part 3). No logic."""

from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, Field

from epa_daemon.errors import ErrorCode, Refusal
from epa_daemon.ledger import Policy, Pool
from epa_daemon.protocol import VERSION

FEATURES = [
    "non-preemptive-allocations",
    "cpu-pools",
    "topology",
    "health",
    "keep-alive",
    "reload",
    "ovs-affinity",
    "history",
    "backup",
    "verify",
]


class Reply(BaseModel):
    """A reply; its fields are in wire order."""

    def encode(self) -> bytes:
        """Compact UTF-8 JSON without a newline."""
        return self.__pydantic_serializer__.to_json(self)


# None ends the connection without an answer.
Respond = Callable[[Reply | None], None]


class ErrorReply(Reply):
    """Any refusal. `path` names the file of the host that is the reason, else it is absent."""

    version: str = VERSION
    error: str
    code: ErrorCode
    path: str | None = Field(default=None, exclude_if=lambda path: path is None)

    @classmethod
    def of(cls, refusal: Refusal) -> "ErrorReply":
        """The reply that tells a client of a refusal."""
        return cls(error=refusal.text, code=refusal.code, path=refusal.path)


class AllocateCoresReply(Reply):
    """Grant or release by count."""

    pool: Pool
    version: str = VERSION
    preemption_policy: Policy | None
    service_name: str
    num_of_cores: int
    cores_allocated: int
    allocated_cores: str
    shared_cpus: str
    total_available_cpus: int
    remaining_available_cpus: int


class AllocateCoresPercentReply(Reply):
    """Grant or release by percent."""

    pool: Pool
    version: str = VERSION
    preemption_policy: Policy | None
    service_name: str
    cores_allocated_count: int
    allocated_cores: str
    total_available_cpus: int
    remaining_available_cpus: int


class AllocateNumaCoresReply(Reply):
    """Grant or release in one NUMA node."""

    pool: Pool
    version: str = VERSION
    preemption_policy: Policy | None
    service_name: str
    numa_node: int
    num_of_cores: int
    cores_allocated: str
    total_available_cpus: int
    remaining_available_cpus: int


class Allocation(BaseModel):
    """One owner in a listing."""

    pool: Pool
    preemption_policy: Policy
    service_name: str
    allocated_cores: str
    cores_count: int
    is_explicit: bool


class CpuPool(BaseModel):
    """What a pool consists of, as ranges."""

    source: Literal["isolated", "configured"]
    configured_cpus: str
    eligible_cpus: str
    unavailable_allocated_cpus: str


class ListAllocationsReply(Reply):
    """One pool and its owners."""

    supported_cpu_features: list[str] = FEATURES
    pool: Pool
    version: str = VERSION
    total_allocations: int
    total_allocated_cpus: int
    total_available_cpus: int
    remaining_available_cpus: int
    allocations: list[Allocation]
    cpu_pool: CpuPool


class PageCount(BaseModel):
    """Hugepages of one size on one node; size in kB."""

    total: int
    free: int
    size: int


class NodePages(BaseModel):
    """Hugepages of one node; `allocations` is service -> size in kB as text -> pages."""

    capacity: list[PageCount]
    allocations: dict[str, dict[str, int]]


class MemoryInfoReply(Reply):
    """Hugepages of every node."""

    version: str = VERSION
    service_name: str
    numa_hugepages: dict[str, NodePages]


class AllocateHugepagesReply(Reply):
    """A hugepage record was set or removed."""

    version: str = VERSION
    service_name: str
    hugepages_requested: int
    allocation_successful: bool = True
    message: str
    node_id: int
    size_kb: int


class CpuInfo(BaseModel):
    """One CPU of the map; `core` is the lowest id among its thread siblings."""

    cpu: int
    online: bool
    node: int | None
    package: int | None
    core: int | None
    cache: str
    pool: Pool | None
    owners: list[str]


class NodeInfo(BaseModel):
    """One NUMA node and its online CPUs; no CPUs for a memory-only node."""

    node: int
    cpus: str


class TopologyReply(Reply):
    """The host map with owners."""

    version: str = VERSION
    online: str
    present: str
    isolated: str
    general: str | None
    nodes: list[NodeInfo]
    cpus: list[CpuInfo]


class Problem(BaseModel):
    """One thing that an operator should look at."""

    code: str
    text: str


class OptionsInForce(BaseModel):
    """The options in force; `cpu_pool` is `isolated` where there is no general pool."""

    cpu_pool: str
    small_system_percent: int
    large_system_threshold: int
    large_system_reserved: int
    access_uids: list[int]
    access_gids: list[int]
    owners: Literal["snap"] | None


class ReloadReply(Reply):
    """The options were read again."""

    version: str = VERSION
    options: OptionsInForce


class HealthReply(Reply):
    """Whether everything works, and what does not."""

    version: str = VERSION
    healthy: bool
    daemon_version: str
    pid: int
    uptime_seconds: int
    state: str
    services: int
    claimed_cpus: int
    options: OptionsInForce
    problems: list[Problem]


class HistoryEvent(BaseModel):
    """What happened to one service.

    `got`, `lost` and `released` are ranges of CPUs or numbers of pages as text, "" for none.
    `requested_for` is null where no request was the reason, or an older daemon kept the event;
    `uid` and `pid` are null where nobody asked; `snap` is "" for none and null for unknown.
    """

    id: int
    at: str
    action: str
    service_name: str
    subject: str
    got: str
    lost: str
    released: str
    before: str
    after: str
    requested_for: str | None
    uid: int | None
    pid: int | None
    snap: str | None


class HistoryReply(Reply):
    """A page of events, the newest first; `next` asks for the following one, null for none."""

    version: str = VERSION
    events: list[HistoryEvent]
    next: int | None


class BackupReply(Reply):
    """A copy of the store was made, as `file` in the state folder."""

    version: str = VERSION
    file: str
    size: int


class VerifyReply(Reply):
    """What is wrong with the store, and what it holds."""

    version: str = VERSION
    problems: list[Problem]
    schema_version: int
    services: int
    claimed_cpus: int


class OvsSwitch(BaseModel):
    """The switch file of Open vSwitch's CPU affinity, and how its changes are noticed."""

    path: str
    state: Literal["on", "off", "another-host"]
    followed: Literal["inotify", "poll", "nothing"]


class OvsThread(BaseModel):
    """A thread; `wanted` is null where its mask is left as it is."""

    tid: int
    name: str
    wanted: str | None
    actual: str
    last_cpu: int


class OvsProcess(BaseModel):
    """A process; left alone where its cpuset forbids free CPUs."""

    pid: int
    name: str
    left_alone: bool
    threads: list[OvsThread]


class OvsAffinityReply(Reply):
    """Where Open vSwitch's threads may run, and where they should."""

    version: str = VERSION
    switch: OvsSwitch
    free_cpus: str
    processes: list[OvsProcess]
    problems: list[str]
