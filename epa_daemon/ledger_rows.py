# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The ledger as rows of the store's tables: all of it read, the difference of two written."""

import sqlite3

from epa_daemon import ledger, ledger_changes
from epa_daemon.ledger import Claim, Holding, Ledger, Policy, Pool


def read(connection: sqlite3.Connection) -> Ledger:
    """The ledger in the tables.

    Raises:
        sqlite3.Error, ValueError, KeyError: they do not hold one.
    """
    claims: dict[str, dict[int, Claim]] = {}
    for service, cpu, node, explicit in connection.execute(
        "SELECT service, cpu, node, explicit FROM claims ORDER BY service, cpu"
    ):
        claims.setdefault(service, {})[cpu] = Claim(node, bool(explicit))
    holdings = {
        name: Holding(Pool(pool), Policy(policy), claims.pop(name, {}))
        for name, pool, policy in connection.execute(
            "SELECT name, pool, policy FROM services ORDER BY name"
        )
    }
    if claims:
        raise ValueError(f"claims of unknown services: {', '.join(sorted(claims))}")
    pages = connection.execute("SELECT node, size_kb, service, count FROM hugepages")
    makers = connection.execute("SELECT service, snap FROM makers")
    records = (((node, size), name, n) for node, size, name, n in pages)
    return ledger.build(holdings, records, dict(makers))


def write(connection: sqlite3.Connection, before: Ledger, after: Ledger) -> None:
    """Make the tables those of `after`, which are those of `before`; in a transaction.

    Raises:
        sqlite3.Error: they may be neither.
    """
    _write_holdings(connection, before, after)
    _write_pages(connection, before, after)
    _write_makers(connection, before, after)


def _write_holdings(connection: sqlite3.Connection, before: Ledger, after: Ledger) -> None:
    for service in ledger_changes.services(before, after):
        new = after.holdings.get(service)
        old_claims, new_claims = before.claims_of(service), after.claims_of(service)
        old = before.holdings.get(service)
        if new and (old is None or (old.pool, old.policy) != (new.pool, new.policy)):
            connection.execute(
                "INSERT OR REPLACE INTO services VALUES (?, ?, ?)",
                (service, new.pool.value, new.policy.value),
            )
        connection.executemany(
            "DELETE FROM claims WHERE service = ? AND cpu = ?",
            [(service, cpu) for cpu in old_claims if cpu not in new_claims],
        )
        connection.executemany(
            "INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)",
            [
                (service, cpu, claim.node, int(claim.explicit))
                for cpu, claim in new_claims.items()
                if old_claims.get(cpu) != claim
            ],
        )
        if new is None:
            connection.execute("DELETE FROM services WHERE name = ?", (service,))


def _write_pages(connection: sqlite3.Connection, before: Ledger, after: Ledger) -> None:
    for key, service in ledger_changes.pages(before, after):
        count = after.pages_of(key, service)
        if count:
            connection.execute(
                "INSERT OR REPLACE INTO hugepages VALUES (?, ?, ?, ?)", (*key, service, count)
            )
        else:
            connection.execute(
                "DELETE FROM hugepages WHERE node = ? AND size_kb = ? AND service = ?",
                (*key, service),
            )


def _write_makers(connection: sqlite3.Connection, before: Ledger, after: Ledger) -> None:
    for service in ledger_changes.makers(before, after):
        maker = after.made_by.get(service)
        if maker is None:
            connection.execute("DELETE FROM makers WHERE service = ?", (service,))
        else:
            connection.execute("INSERT OR REPLACE INTO makers VALUES (?, ?)", (service, maker))
