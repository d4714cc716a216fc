# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The wire, inwards: the requests, and how bytes become one. No rules.

Field names, their order, defaults and limits are those of the contract's part 2. The
description of a request's field completes the sentence "<field> ..." in error replies.
"""

import json
import re
from typing import Annotated, Any, Literal, cast

import pydantic
import pydantic_core
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

from epa_daemon import history
from epa_daemon.errors import Refusal
from epa_daemon.ledger import Policy, Pool

VERSION = "1.0"
MAX_REQUEST = 64 * 1024
_LARGEST = 2**63 - 1
_DECIMAL = re.compile(r"\s*([+-]?[0-9]{1,40})(?:\.0+)?\s*", re.ASCII)


def _whole_number(value: object) -> int:
    """Accept 3, 3.0, "3", " 3 ", "+3", "007", "3.0" and "-1"; nothing else that Python would."""
    if isinstance(value, str) and (match := _DECIMAL.fullmatch(value)):
        value = int(match[1])
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > _LARGEST:
        raise ValueError("not a whole number")
    return value


def is_service_name(text: str) -> bool:
    """Whether requests may carry this as the name of a service."""
    return 1 <= len(text) <= 128 and text.isprintable()


def _service_name(value: object) -> str:
    if not isinstance(value, str) or not is_service_name(value):
        raise ValueError("not a service name")
    return value


def _any_name(value: object) -> str | None:
    return None if value is None or value == "" else _service_name(value)


def _moment(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError("not a time")
    return history.moment(value)


WholeNumber = Annotated[int, BeforeValidator(_whole_number)]
ServiceName = Annotated[
    str,
    BeforeValidator(_service_name),
    Field(description="must be a text of 1 to 128 printable characters"),
]
OptionalName = Annotated[
    str | None,
    BeforeValidator(_any_name),
    Field(description="must be a text of at most 128 printable characters, or absent"),
]
PoolName = Annotated[Pool, Field(description='must be "isolated" or "general"')]
PolicyName = Annotated[
    Policy | None, Field(description='must be "legacy", "non-preemptive", null or absent')
]
Version = Annotated[Literal["1.0"], Field(description='must be "1.0" or absent')]
KeepAlive = Annotated[StrictBool, Field(description="must be true, false or absent")]


class Request(BaseModel):
    """What every request may carry; unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Version = VERSION
    keep_alive: KeepAlive = False

    def action(self) -> str:
        """The name of the action on the wire."""
        return _ACTION_OF[type(self)]


class CpuRequest(Request):
    """A request that changes the CPUs of a service."""

    pool: PoolName = Pool.ISOLATED
    preemption_policy: PolicyName = None
    service_name: ServiceName


class AllocateCores(CpuRequest):
    """Grant a count of CPUs; 0 asks for the heuristic, -1 releases everything."""

    num_of_cores: Annotated[
        WholeNumber,
        Field(
            ge=-1, description="must be a whole number of at least -1 (0: heuristic, -1: release)"
        ),
    ] = 0


class AllocateCoresPercent(CpuRequest):
    """Grant a share of the whole eligible pool; 0 and -1 release everything."""

    percent: Annotated[
        WholeNumber, Field(ge=-1, le=100, description="must be a whole number from -1 to 100")
    ]


class AllocateNumaCores(CpuRequest):
    """Grant a count of CPUs of one NUMA node; -1 releases what is held there."""

    numa_node: Annotated[
        WholeNumber, Field(ge=0, description="must be a whole number of at least 0")
    ]
    num_of_cores: Annotated[WholeNumber, Field(description="must be a whole number")]


class ListAllocations(Request):
    """List one pool."""

    pool: PoolName = Pool.ISOLATED
    service_name: Annotated[
        str | None, Field(strict=True, description="must be a text, null or absent")
    ] = None


class GetMemoryInfo(Request):
    """Read hugepage capacity and records."""

    service_name: OptionalName = None


class AllocateHugepages(Request):
    """Record hugepages for a service; -1 removes the record."""

    service_name: ServiceName
    hugepages_requested: Annotated[
        WholeNumber,
        Field(ge=-1, description="must be a whole number above 0, or -1 to remove the record"),
    ]
    node_id: Annotated[
        WholeNumber, Field(ge=0, description="must be a whole number of at least 0")
    ]
    size_kb: Annotated[WholeNumber, Field(gt=0, description="must be a whole number above 0 (kB)")]


class GetTopology(Request):
    """Read the host map."""


class GetHealth(Request):
    """Read the health report."""


class GetOvsAffinity(Request):
    """Read where Open vSwitch's threads may run."""


class GetHistory(Request):
    """Read what happened, the newest events first."""

    service_name: Annotated[
        str | None, Field(strict=True, description="must be a text, null or absent")
    ] = None
    since: Annotated[
        str | None,
        BeforeValidator(_moment),
        Field(description="must be a time such as 2026-01-31T12:00:00+00:00, null or absent"),
    ] = None
    before: Annotated[
        WholeNumber | None,
        Field(description="must be the `next` of another reply, null or absent"),
    ] = None
    limit: Annotated[
        WholeNumber,
        Field(ge=1, le=1000, description="must be a whole number from 1 to 1000, or absent"),
    ] = 100


class Backup(Request):
    """Put a copy of the store beside it."""


class Verify(Request):
    """Read the whole store, and compare it with what the daemon goes by."""


class Reload(Request):
    """Take the options that wait in the options file; it carries none itself."""


ACTIONS: dict[str, type[Request]] = {
    "allocate_cores": AllocateCores,
    "allocate_cores_percent": AllocateCoresPercent,
    "allocate_numa_cores": AllocateNumaCores,
    "list_allocations": ListAllocations,
    "get_memory_info": GetMemoryInfo,
    "allocate_hugepages": AllocateHugepages,
    "get_topology": GetTopology,
    "get_health": GetHealth,
    "get_ovs_affinity": GetOvsAffinity,
    "get_history": GetHistory,
    "backup": Backup,
    "verify": Verify,
    "reload": Reload,
}
_ACTION_OF = {model: action for action, model in ACTIONS.items()}


def parse_request(data: bytes) -> Request:
    """Read one request.

    Raises:
        Refusal: `invalid-json`, `unknown-action` or `invalid-request`; the text names every
            wrong field and what is allowed.
    """
    try:
        content = pydantic_core.from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal("invalid-json", f"The request is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise Refusal("invalid-json", "The request must be one JSON object")
    action = cast("dict[str, Any]", content).get("action")
    model = ACTIONS.get(action) if isinstance(action, str) else None
    if model is None:
        raise Refusal("unknown-action", f"Unknown action: {_bounded(str(action))}")
    try:
        return model.model_validate(content)
    except pydantic.ValidationError as error:
        raise Refusal("invalid-request", _wrong_fields(model, error)) from error


def _wrong_fields(model: type[Request], error: pydantic.ValidationError) -> str:
    sentences: dict[str, str] = {}
    for wrong in error.errors(include_url=False, include_context=False):
        name = str(wrong["loc"][0])
        rule = model.model_fields[name].description
        found = "it is missing" if wrong["type"] == "missing" else f"got {_shown(wrong['input'])}"
        sentences[name] = f"{name} {rule} ({found})"
    return "Invalid request: " + "; ".join(sentences.values())


def _shown(value: object) -> str:
    return _bounded(json.dumps(value, ensure_ascii=True))


def _bounded(text: str) -> str:
    safe = text if text.isprintable() else ascii(text)
    return safe if len(safe) <= 100 else f"{safe[:100]}..."
