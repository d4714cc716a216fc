# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What an operator should look at, from values. Pure."""

from epa_daemon import cpulist
from epa_daemon.errors import Refusal
from epa_daemon.host import Host
from epa_daemon.ledger import Ledger, Pool
from epa_daemon.pools import Rules, cpus_of
from epa_daemon.replies import Problem


def problems(host: Host, ledger: Ledger, rules: Rules, store_problem: str | None) -> list[Problem]:
    """Everything that is wrong now; [] for a healthy daemon.

    A host without isolated CPUs or hugepages is healthy: there is nothing to hand out.
    """
    found: list[Problem] = []
    if store_problem:
        found.append(Problem(code="store-failed", text=store_problem))
    if rules.general and rules.general.error:
        text = f"{rules.general.error}; the general pool has no CPUs until this is corrected"
        found.append(Problem(code="invalid-cpu-pool", text=text))
    found += [Problem(code="host-unreadable", text=str(fault)) for fault in host.harmful_faults]
    for cpu in sorted(ledger.contested):
        owners = " and ".join(ledger.owners[cpu])
        text = f"CPU {cpu} is held by {owners} at once (imported so); release one of them"
        found.append(Problem(code="contested", text=text))
    for pool in Pool:
        found += _outside(pool, host, ledger, rules)
    return found


def _outside(pool: Pool, host: Host, ledger: Ledger, rules: Rules) -> list[Problem]:
    """Claims on CPUs that the pool has lost, or that are offline."""
    claimed = {
        name: holding.cpus for name, holding in ledger.holdings.items() if holding.pool is pool
    }
    try:
        configured = cpus_of(pool, host, rules)
    except Refusal:
        configured = frozenset[int]()
    found: list[Problem] = []
    for name, cpus in sorted(claimed.items()):
        lost, offline = cpus - configured, cpus & configured - host.grantable
        if lost:
            text = f"{name} holds {cpulist.format_ranges(lost)}, no longer in pool {pool}; "
            if pool is Pool.GENERAL and rules.general is None:
                text += "configure the pool again (snap set epa-orchestrator cpu-pool=...)"
            else:
                text += "put them back into the pool, or release"
            found.append(Problem(code="claims-outside-pool", text=text))
        if offline:
            text = f"{name} holds {cpulist.format_ranges(offline)}, which are offline"
            found.append(Problem(code="claims-offline", text=text))
    return found
