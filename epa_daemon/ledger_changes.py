# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What differs between two ledgers, found without comparing what they share. Pure."""

from collections.abc import Mapping
from types import MappingProxyType

from epa_daemon.ledger import Ledger, PageKey

_NO_RECORDS: Mapping[str, int] = MappingProxyType({})


def services(before: Ledger, after: Ledger) -> list[str]:
    """Services whose holding differs between two ledgers."""
    if before.holdings is after.holdings:
        return []
    old, new = before.holdings, after.holdings
    changed = [name for name, holding in new.items() if old.get(name) is not holding]
    return sorted(changed + list(old.keys() - new.keys()))


def pages(before: Ledger, after: Ledger) -> list[tuple[PageKey, str]]:
    """Hugepage records that differ between two ledgers, as (node, size in kB) and service."""
    changed: list[tuple[PageKey, str]] = []
    for key in before.hugepages.keys() | after.hugepages.keys():
        old, new = before.hugepages.get(key, _NO_RECORDS), after.hugepages.get(key, _NO_RECORDS)
        if old is not new:
            changed += [(key, name) for name, count in new.items() if old.get(name) != count]
            changed += [(key, name) for name in old if name not in new]
    return sorted(changed)


def makers(before: Ledger, after: Ledger) -> list[str]:
    """Services whose claims are another snap's than before."""
    if before.made_by is after.made_by:
        return []
    old, new = before.made_by, after.made_by
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
