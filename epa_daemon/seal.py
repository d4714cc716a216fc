# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A sum over all that services hold, to notice a store that is not what the daemon wrote. Pure.

SQLite notices pages that make no sense; a bit that makes another CPU of a CPU makes sense. The sum
of the hashes of all holdings can be moved along with each change, whatever the ledger's size.
"""

import hashlib
from collections.abc import Iterable

from epa_daemon import ledger_changes
from epa_daemon.ledger import Holding, Ledger, PageKey

_SIZE = 16
_MODULUS = 1 << (8 * _SIZE)


def of(store: str, content: Ledger) -> int:
    """The sum of a whole ledger, and of the id of the store that it is in."""
    return moved(_hash(["store", store]), Ledger(), content)


def moved(total: int, before: Ledger, after: Ledger) -> int:
    """The sum of `after`, from that of `before`."""
    for service in ledger_changes.services(before, after):
        total += _holding(service, after.holdings.get(service))
        total -= _holding(service, before.holdings.get(service))
    for key, service in ledger_changes.pages(before, after):
        total += _pages(key, service, after.pages_of(key, service))
        total -= _pages(key, service, before.pages_of(key, service))
    for service in ledger_changes.makers(before, after):
        total += _maker(service, after.made_by.get(service))
        total -= _maker(service, before.made_by.get(service))
    return total % _MODULUS


def text(total: int) -> str:
    """As it is kept."""
    return f"{total:0{2 * _SIZE}x}"


def _holding(service: str, holding: Holding | None) -> int:
    if holding is None:
        return 0
    claims = sorted((cpu, claim.node, claim.explicit) for cpu, claim in holding.claims.items())
    return _hash([service, holding.pool.value, holding.policy.value, *claims])


def _pages(key: PageKey, service: str, count: int) -> int:
    return _hash([*key, service, count]) if count else 0


def _maker(service: str, snap: str | None) -> int:
    return 0 if snap is None else _hash(["maker", service, snap])


def _hash(values: Iterable[object]) -> int:
    # repr tells a text from a number, and where one value ends.
    encoded = repr(list(values)).encode()
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=_SIZE).digest())
