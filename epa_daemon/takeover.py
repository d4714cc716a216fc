# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Taking over the state file of the daemon that was deployed before (contract, state-json)."""

import hashlib
import json
import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from epa_daemon import cpulist, history
from epa_daemon.errors import CannotStart, StoreFailed, StoreInDoubt
from epa_daemon.history import Cause
from epa_daemon.ledger import Claim, Holding, Ledger, PageKey, Policy, Pool
from epa_daemon.options import Prefer
from epa_daemon.store import Import, Store

logger = logging.getLogger(__name__)

FILE_NAME = "state.json"
# Clients can write in its folder; thousands of services come to less than 1 MiB.
_MOST_BYTES = 16 << 20
_COMPANIONS = (FILE_NAME, f"{FILE_NAME}.lock", f"{FILE_NAME}.1")

Choice = TypeVar("Choice", Policy, Pool)


@dataclass(frozen=True)
class OldState:
    """What an old state file says.

    Attributes:
        holdings: may claim one CPU twice; both are imported as recorded.
        pages: the valid hugepage records.
        skipped: what was wrong with the others, a sentence each.
    """

    holdings: Mapping[str, Holding]
    pages: Mapping[tuple[PageKey, str], int]
    source: Import
    skipped: tuple[str, ...] = ()


class _Corrupt(ValueError):
    pass


def read(path: Path) -> OldState | None:
    """Read an old state file; None where there is none. Touches nothing.

    Raises:
        CannotStart: the file is there and cannot be understood; it names the fault.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _Corrupt("it is not a regular file")
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise _Corrupt(f"it is longer than {_MOST_BYTES >> 20} MiB")
        return _parse(content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CannotStart(
            f"the old state {path} cannot be taken over: {reason}; it was left as it is: "
            "correct it, or move it away to start without its claims"
        ) from error


def _parse(content: bytes) -> OldState:
    root = _object(json.loads(content), "the file")
    section = _object(root.get("allocations_db", {}), "allocations_db")
    listed = section.get("allocations", {})
    listed = cast("dict[str, Any]", listed) if isinstance(listed, dict) else {}
    cpus = {name: _cpus(value, f"allocations[{name!r}]") for name, value in listed.items()}
    explicit = {
        name: _cpus(value, f"explicit_allocations[{name!r}]")
        for name, value in _table(section, "explicit_allocations").items()
    }
    policies = _choices(section, "preemption_policies", Policy, cpus)
    pools = _choices(section, "allocation_pools", Pool, cpus)
    holdings = {
        name: Holding(
            pools.get(name, Pool.ISOLATED),
            policies.get(name, Policy.LEGACY),
            {cpu: Claim(None, cpu in explicit.get(name, ())) for cpu in sorted(claimed)},
        )
        for name, claimed in sorted(cpus.items())
        if claimed
    }
    pages, skipped = _pages(_object(root.get("hugepages_db", {}), "hugepages_db"))
    source = Import(hashlib.sha256(content).hexdigest(), str(root.get("updated_at", "")))
    return OldState(holdings, pages, source, tuple(skipped))


def _object(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Corrupt(f"{name} is not an object")
    return cast("dict[str, Any]", value)


def _table(section: dict[str, Any], name: str) -> dict[str, Any]:
    return _object(section.get(name, {}), name)


def _cpus(value: object, name: str) -> frozenset[int]:
    if not isinstance(value, str):
        raise _Corrupt(f"{name} is not a CPU list")
    try:
        return cpulist.parse(value)
    except cpulist.CpuListError as error:
        raise _Corrupt(f"{name}: {error}") from error


def _choices(
    section: dict[str, Any], name: str, kind: type[Choice], services: Mapping[str, object]
) -> dict[str, Choice]:
    chosen: dict[str, Choice] = {}
    for service, value in _table(section, name).items():
        if service not in services:
            raise _Corrupt(f"{name} names {service!r}, which holds no CPUs")
        if not isinstance(value, str) or value not in set(kind):
            raise _Corrupt(f"{name}[{service!r}] is {value!r}, not one of {', '.join(kind)}")
        chosen[service] = kind(value)
    return chosen


def _pages(section: dict[str, Any]) -> tuple[dict[tuple[PageKey, str], int], list[str]]:
    pages: dict[tuple[PageKey, str], int] = {}
    skipped: list[str] = []
    for service, entries in _table(section, "allocations").items():
        for entry in cast("list[Any]", entries) if isinstance(entries, list) else [entries]:
            try:
                key = (_count(entry["node_id"], 0), _count(entry["size_kb"], 1))
                pages[key, service] = _count(entry["count"], 1)
            except (KeyError, TypeError, ValueError):
                skipped.append(f"hugepages of {service}: {str(entry)[:200]}")
    return pages, skipped


def _count(value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        raise ValueError("not a count")
    return value


def merge(ledger: Ledger, old: OldState, prefer: Prefer | None) -> Ledger:
    """A ledger with an old state's claims added.

    The same service in both keeps the claims of both and the stricter policy; of two hugepage
    counts the larger one stays.

    Raises:
        CannotStart: a CPU has another owner in the old state than in the ledger, or a service
            another pool, and `prefer` does not say whose word counts.
    """
    for service, holding in old.holdings.items():
        contradiction = _contradiction(ledger, service, holding)
        if contradiction and prefer is None:
            raise CannotStart(
                f"the old state contradicts the ledger: {contradiction}; say which one counts: "
                "snap set epa-orchestrator takeover.prefer=old (or =new), then refresh or start "
                "again; or, with the daemon stopped, epa-orchestrator takeover --prefer old"
            )
    merged = ledger
    for service, holding in old.holdings.items():
        merged = _merge_holding(ledger, merged, service, holding, prefer)
    for (key, service), count in old.pages.items():
        if count > merged.pages_of(key, service):
            merged = merged.with_pages(key, service, count)
    return merged.without_idle_makers()


def _contradiction(ledger: Ledger, service: str, holding: Holding) -> str | None:
    known = ledger.holdings.get(service)
    if known and known.pool is not holding.pool:
        return f"{service} is in pool {holding.pool} there and in pool {known.pool} here"
    for cpu in sorted(holding.claims):
        others = ledger.owners.get(cpu, ())
        if others and service not in others:
            return f"CPU {cpu} is held by {service} there and by {' and '.join(others)} here"
    return None


def _merge_holding(
    ledger: Ledger, merged: Ledger, service: str, holding: Holding, prefer: Prefer | None
) -> Ledger:
    """Add one service's old claims; `ledger` is what was there before any of them."""
    known = merged.holdings.get(service)
    if known and known.pool is not holding.pool:
        if prefer == "new":
            return merged
        known = None
    taken = holding.cpus & ledger.owned - ledger.cpus_of(service)
    if prefer == "old":
        for cpu in sorted(taken):
            for owner in ledger.owners[cpu]:
                if owner != service:
                    merged = merged.without_cpus(owner, frozenset({cpu}))
        taken = frozenset[int]()
    claims = {cpu: claim for cpu, claim in holding.claims.items() if cpu not in taken}
    claims |= dict(known.claims) if known else {}
    if not claims:
        return merged
    strict = holding.protected or (known is not None and known.protected)
    policy = Policy.NON_PREEMPTIVE if strict else Policy.LEGACY
    return merged.with_holding(service, Holding(holding.pool, policy, claims))


def run(data: Path, state: Path, store: Store, ledger: Ledger, prefer: Prefer | None) -> Ledger:
    """Import the old state file of a data folder, if there is one that is not imported yet.

    One transaction; only after it the file and its companions move to `<state>/imported`.

    Raises:
        CannotStart: the file cannot be understood or contradicts the ledger; nothing was touched.
    """
    path = data / FILE_NAME
    old = read(path)
    if old is None:
        return ledger
    after = ledger
    if store.has_imported(old.source.sha256):
        logger.info("%s was taken over before; moving it away", path)
    else:
        after = merge(ledger, old, prefer)
        events = history.events(Cause("import"), ledger, after)
        try:
            store.commit(ledger, after, events, old.source)
        except (StoreFailed, StoreInDoubt) as error:
            raise CannotStart(f"the old state {path} could not be taken over: {error}") from error
        _report(data, old, after, len(events))
    _move_away(data, state / "imported", old.source.sha256)
    return after


def _report(data: Path, old: OldState, after: Ledger, changes: int) -> None:
    logger.info("took over %d claims from %s", changes, data / FILE_NAME)
    for entry in old.skipped:
        logger.warning("skipped an invalid entry of %s: %s", data / FILE_NAME, entry)
    for cpu in sorted(after.contested):
        logger.error(
            "CPU %d is held by %s at once, as %s said; release one of them",
            cpu,
            " and ".join(after.owners[cpu]),
            data / FILE_NAME,
        )
    lock = data / f"{FILE_NAME}.lock"
    if lock.is_file() and lock.stat().st_size:
        logger.warning("%s marks a commit that the old daemon was unsure of; check it", lock)


def _move_away(data: Path, folder: Path, sha256: str) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in _COMPANIONS:
            if (data / name).exists():
                target = folder / name
                if target.exists():
                    target = folder / f"{name}.{sha256[:12]}"
                # The two folders are on one file system in a snap; elsewhere they may not be,
                # and a state file that cannot be moved is recognised by its hash next time.
                os.replace(data / name, target)
    except OSError as error:
        logger.warning("cannot move the imported state out of %s: %s", data, error)
