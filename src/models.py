# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Options and action parameters, checked; what Juju's own schemas say is said there too."""

import datetime
import re
from typing import Annotated, Any, Literal

import pydantic

import cpulist

Pool = Literal["isolated", "general"]
Policy = Literal["legacy", "non-preemptive"]

_RISKS = ("stable", "candidate", "beta", "edge")
_CHANNEL_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_SNAP_PLUG = re.compile(r"([a-z0-9][a-z0-9_-]*):([a-z][a-z0-9-]*)")
_AGE = re.compile(r"\d{1,6} *[smhdw]", re.ASCII)


class _Checked(pydantic.BaseModel):
    """Tells of the first fault in one line: a status and a failed action have no room for more."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)

    def __init__(self, **data: Any):
        try:
            super().__init__(**data)
        except pydantic.ValidationError as error:
            raise ValueError(_one_line(error)) from error


def _one_line(error: pydantic.ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]).replace("_", "-")
    text = first["msg"].removeprefix("Value error, ")
    return f"{where}: {text}" if where else text


def canonical_pool(value: object) -> str:
    """One spelling of a CPU pool: merged ranges, "" for no general pool.

    The snap keeps what it was given ("2,3", 5, " 2-3", null), and that is compared with an option.

    Raises:
        ValueError: it is no CPU list.
    """
    text = "" if value is None else str(value).strip()
    return "" if text == "isolated" else cpulist.ranges(cpulist.parse(text))


def _check_pool(text: str) -> str:
    canonical_pool(text)
    return text.strip()


def _check_channel(text: str) -> str:
    channel = text.strip()
    parts = channel.split("/") if channel else []
    words = all(_CHANNEL_WORD.fullmatch(part) for part in parts)
    if parts and parts[0] not in _RISKS:
        parts = parts[1:]
    if not words or (parts and parts[0] not in _RISKS) or len(parts) > 2:
        raise ValueError(f"'{text}' is not a channel such as 2024.1/stable")
    return channel


class SnapPlug(pydantic.BaseModel):
    """A plug of a snap, as people write it: `openstack-hypervisor:epa-info`."""

    model_config = pydantic.ConfigDict(frozen=True)

    snap: str
    plug: str

    def __str__(self) -> str:
        return f"{self.snap}:{self.plug}"


def _parse_plugs(text: str) -> str:
    for word in text.replace(",", " ").split():
        if not _SNAP_PLUG.fullmatch(word):
            raise ValueError(f"'{word}' is not of the form snap:plug")
    return text


class CharmConfig(_Checked):
    """The charm's options. Unset and empty ones leave the snap's options as they are."""

    snap_channel: Annotated[str, pydantic.AfterValidator(_check_channel)] = ""
    cpu_pool: Annotated[str, pydantic.AfterValidator(_check_pool)] = ""
    epa_info_plugs: Annotated[str, pydantic.AfterValidator(_parse_plugs)] = (
        "openstack-hypervisor:epa-info"
    )
    policy_small_system_percent: int | None = pydantic.Field(default=None, ge=1, le=100)
    policy_large_system_threshold: int | None = pydantic.Field(default=None, ge=1, le=65536)
    policy_large_system_reserved: int | None = pydantic.Field(default=None, ge=0, le=65535)
    ovs_dynamic_cpu_affinity: bool = False

    @property
    def plugs(self) -> tuple[SnapPlug, ...]:
        """Which clients' plugs may be connected, in the given order, each once."""
        words = dict.fromkeys(self.epa_info_plugs.replace(",", " ").split())
        pairs = (word.split(":") for word in words)
        return tuple(SnapPlug(snap=snap, plug=plug) for snap, plug in pairs)

    @property
    def snap_options(self) -> dict[str, str | int]:
        """The snap's options that have to have these values."""
        wanted: dict[str, str | int | None] = {
            "cpu-pool": self.cpu_pool or None,
            "policy.small-system-percent": self.policy_small_system_percent,
            "policy.large-system-threshold": self.policy_large_system_threshold,
            "policy.large-system-reserved": self.policy_large_system_reserved,
        }
        return {name: value for name, value in wanted.items() if value is not None}


def _check_service(name: str) -> str:
    if not name.isprintable() or not name.strip():
        raise ValueError("a service name is 1 to 128 printable characters")
    return name


ServiceName = Annotated[
    str, pydantic.Field(min_length=1, max_length=128), pydantic.AfterValidator(_check_service)
]


class ListAllocationsParams(_Checked):
    """Parameters of `list-allocations`."""

    service_name: ServiceName | None = None
    format: Literal["table", "json"] = "table"


def _check_since(text: str) -> str:
    if not _AGE.fullmatch(text.strip()):
        try:
            datetime.datetime.fromisoformat(text.strip())
        except ValueError as error:
            raise ValueError(
                f"'{text}' is neither a time such as 2026-01-31T12:00 nor an age such as 2h or 3d"
            ) from error
    return text.strip()


class HistoryParams(_Checked):
    """Parameters of `history`."""

    service_name: ServiceName | None = None
    since: (
        Annotated[
            str,
            pydantic.Field(min_length=1, max_length=40),
            pydantic.AfterValidator(_check_since),
        ]
        | None
    ) = None
    format: Literal["table", "json"] = "table"


class AllocateCoresParams(_Checked):
    """Parameters of `allocate-cores`."""

    service_name: ServiceName
    cores: int | None = pydantic.Field(default=None, ge=1)
    percent: int | None = pydantic.Field(default=None, ge=1, le=100)
    numa_node: int | None = pydantic.Field(default=None, ge=0)
    pool: Pool = "isolated"
    preemption_policy: Policy | None = None

    @pydantic.model_validator(mode="after")
    def _one_amount(self) -> "AllocateCoresParams":
        if (self.cores is None) == (self.percent is None):
            raise ValueError("give either cores or percent")
        if self.numa_node is not None and self.cores is None:
            raise ValueError("numa-node goes with cores")
        return self


class ReleaseParams(_Checked):
    """Parameters of `release`."""

    service_name: ServiceName
    numa_node: int | None = pydantic.Field(default=None, ge=0)
    pool: Pool = "isolated"
