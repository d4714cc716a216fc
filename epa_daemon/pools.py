# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The two pools: which CPUs they consist of, and which values of `cpu-pool` are accepted.

Texts and rules are those of the contract's part 7.
"""

from dataclasses import dataclass

from epa_daemon import cpulist
from epa_daemon.errors import Refusal
from epa_daemon.host import Host
from epa_daemon.ledger import Ledger, Pool

EXCLUDES = (
    "cpu-pool excludes allocated CPUs: {ranges}; "
    "release or migrate these allocations before changing the pool"
)
NOT_CONFIGURED = "CPU pool general is not configured"


class PoolError(ValueError):
    """A value of `cpu-pool` that cannot be accepted; the message says why."""


@dataclass(frozen=True)
class GeneralPool:
    """The configured general pool.

    Attributes:
        cpus: what was configured; empty where `error` is set.
        error: why the configured value gives no CPUs.
    """

    cpus: frozenset[int]
    error: str | None = None


@dataclass(frozen=True)
class Rules:
    """What an operator configures about decisions.

    Attributes:
        general: the general pool, None where there is none.
        small_system_percent: share of the candidates that the heuristic takes.
        large_system_threshold: number of candidates above which it leaves some instead.
        large_system_reserved: how many it leaves then.
    """

    general: GeneralPool | None = None
    small_system_percent: int = 80
    large_system_threshold: int = 100
    large_system_reserved: int = 16


def is_unset(value: object) -> bool:
    """Whether a value of `cpu-pool` means "no general pool"."""
    return value is None or (isinstance(value, str) and value.strip() == "isolated")


def parse(value: object) -> frozenset[int] | None:
    """Read a value of `cpu-pool`; None for no general pool.

    Args:
        value: as snapd stores it: a text, or an integer that is one CPU id.

    Raises:
        PoolError: it is neither `isolated` nor a CPU list.
    """
    if is_unset(value):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise PoolError("cpu-pool must be 'isolated' or a CPU list")
    try:
        if not str(value).strip():
            raise cpulist.CpuListError("Invalid cpu-pool CPU list component: ''")
        return cpulist.parse(str(value))
    except cpulist.CpuListError as error:
        raise PoolError(str(error)) from error


def configured(value: object) -> GeneralPool | None:
    """The pool that a daemon was configured with; an unusable value leaves one without CPUs."""
    try:
        cpus = parse(value)
    except PoolError as error:
        return GeneralPool(frozenset(), str(error))
    return None if cpus is None else GeneralPool(cpus)


def beside(pool: GeneralPool | None, isolated: frozenset[int]) -> GeneralPool | None:
    """The configured pool on a host with these isolated CPUs; without CPUs if they overlap."""
    if pool is None:
        return None
    try:
        _check_overlap(pool.cpus, isolated)
    except PoolError as error:
        return GeneralPool(frozenset(), str(error))
    return pool


def validate(
    value: object, present: frozenset[int], isolated: frozenset[int], ledger: Ledger
) -> None:
    """Check a new value of `cpu-pool` before it is accepted.

    Raises:
        PoolError: grammar, CPUs that are not present, overlap with isolation, or claims in the
            general pool that the value would leave outside.
    """
    cpus = parse(value)
    claimed = frozenset(
        cpu
        for holding in ledger.holdings.values()
        if holding.pool is Pool.GENERAL
        for cpu in holding.claims
    )
    if cpus is None:
        if claimed:
            raise PoolError(NOT_CONFIGURED)
        return
    for component in str(value).split(","):
        _check_present(component.strip(), present)
    _check_overlap(cpus, isolated)
    if claimed - cpus:
        raise PoolError(EXCLUDES.format(ranges=cpulist.format_ranges(claimed - cpus)))


def accept(
    value: object,
    current: GeneralPool | None,
    present: frozenset[int],
    isolated: frozenset[int],
    ledger: Ledger,
) -> GeneralPool | None:
    """The pool that a new value of `cpu-pool` stands for.

    A value that says what is configured already is not checked again: the host may have changed
    since, and an operator who sets something else must not be held up by it.

    Raises:
        PoolError: see `validate`.
    """
    new = configured(value)
    if new != current or (new and new.error):
        validate(value, present, isolated, ledger)
    return new


def _check_present(component: str, present: frozenset[int]) -> None:
    first, last = cpulist.component_range(component)
    if first != last and last > max(present, default=-1):
        raise PoolError(f"cpu-pool range is outside present CPU topology: '{component}'")
    if not present.issuperset(range(first, last + 1)):
        raise PoolError(f"cpu-pool includes CPUs not present: '{component}'")


def _check_overlap(cpus: frozenset[int], isolated: frozenset[int]) -> None:
    if cpus & isolated:
        ranges = cpulist.format_ranges(cpus & isolated)
        raise PoolError(f"General cpu-pool overlaps isolated CPUs: {ranges}")


def cpus_of(pool: Pool, host: Host, rules: Rules) -> frozenset[int]:
    """The CPUs of a pool, online or not.

    Raises:
        Refusal: `pool-not-configured`.
    """
    if pool is Pool.ISOLATED:
        return host.isolated
    if rules.general is None:
        raise Refusal("pool-not-configured", NOT_CONFIGURED)
    return rules.general.cpus
