# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The snap's options: enforced where the charm's are given, else left to whoever set them."""

import logging
from collections.abc import Mapping
from typing import Any

import daemon
import epa_snap
import errors
import models

logger = logging.getLogger(__name__)

POOL = "cpu-pool"


def apply(wanted: Mapping[str, str | int], holdings: daemon.Holdings) -> bool:
    """Set the options that differ, all or none; True if something was set.

    Raises:
        errors.Trouble: the daemon is too old for one, claims stand against it, or the snap
            refuses a value.
    """
    if not wanted:
        return False
    _check_age(wanted, holdings)
    current = epa_snap.options()
    changed = {name: value for name, value in wanted.items() if _differs(name, value, current)}
    if POOL in changed:
        _check_owners(str(changed[POOL]), _value(POOL, current), holdings)
    if changed:
        epa_snap.set_options(changed)
    return bool(changed)


def _check_age(wanted: Mapping[str, str | int], holdings: daemon.Holdings) -> None:
    if POOL in wanted and "cpu-pools" not in holdings.features:
        raise errors.NeedsOperator(f"{POOL} needs a newer daemon")
    policies = sorted(set(wanted) - {POOL})
    if policies and not holdings.newer:
        raise errors.NeedsOperator(f"{policies[0].replace('.', '-')} needs a newer daemon")


def _value(name: str, current: Mapping[str, Any]) -> Any:
    value: Any = current
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    return value  # pyright: ignore[reportUnknownVariableType]


def _differs(name: str, wanted: str | int, current: Mapping[str, Any]) -> bool:
    value = _value(name, current)
    if name != POOL:
        return str(value) != str(wanted)
    try:
        return models.canonical_pool(value) != models.canonical_pool(wanted)
    except ValueError:
        logger.warning("the snap's %s is %r, which is no CPU list", POOL, value)
        return True


def _check_owners(wanted: str, current: Any, holdings: daemon.Holdings) -> None:
    """Another charm's pool may be in use: nobody's CPUs are pulled away from here."""
    owners = holdings.owners(daemon.GENERAL)
    if owners and current not in (None, "", "isolated"):
        raise errors.NeedsOperator(
            f"{POOL} is {current} in the snap, not {wanted}: "
            f"release the general CPUs of {', '.join(owners)} first"
        )
