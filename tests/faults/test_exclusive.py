# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Many clients at once that fight over too few CPUs: no CPU has two owners, at any moment."""

import contextlib
import random
import sqlite3
import time

from epa_daemon import cpulist, state_folder
from tests.faults import rivals, stories, tally, witness
from tests.faults.budget import CHOSEN
from tests.faults.rivals import Known, Rivals
from tests.functional.daemons import Daemon, MakeDaemon

# What one service holds all along, so that the others have 24 of 112 isolated CPUs.
FILLED = {0: 36, 1: 52}
SECONDS = 4


def fill(daemon: Daemon, known: Known) -> None:
    for node, count in FILLED.items():
        about = {"pool": "isolated", "numa_node": node, "num_of_cores": count}
        reply = known.told.ask(daemon, "allocate_numa_cores", service_name="filler", **about)
        assert "error" not in reply
    known.begin_anew(witness.look(daemon))


def observe(daemon: Daemon, known: Known, seconds: float) -> int:
    """List both pools without end; the number of listings."""
    listings, end = 0, time.monotonic() + seconds
    while time.monotonic() < end and not known.wrong:
        for pool in rivals.POOLS:
            asked = known.moment()
            known.sees(pool, daemon.listing(pool=pool), asked)
            listings += 1
    return listings


def replay(daemon: Daemon, seen_until: int) -> tuple[int, int]:
    """Let the history happen again, decision by decision; its end, and what was reclaimed in it.

    After each one no CPU has two owners, and each change begins where the last one ended.
    """
    columns = "id, at, action, requested_for, service, subject, before, after"
    with contextlib.closing(sqlite3.connect(daemon.state / state_folder.DATABASE)) as store:
        asked = f"SELECT {columns} FROM events WHERE subject LIKE 'cpus %' ORDER BY id"
        rows = store.execute(asked).fetchall()
    held: dict[str, str] = {}
    reclaims = 0
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        number, service, before, after = row[0], row[4], row[6], row[7]
        assert held.get(service, before) == before, row
        held[service] = after
        reclaims += number > seen_until and row[3] != service
        if following is None or following[1:4] != row[1:4]:
            owned = [cpu for text in held.values() for cpu in cpus_of(text)]
            assert len(owned) == len(set(owned)), f"two owners after {row}: {held}"
    return rows[-1][0], reclaims


def cpus_of(described: str) -> frozenset[int]:
    return cpulist.parse(described.split()[0]) if described else frozenset()


def test_no_cpu_has_two_owners_whatever_many_clients_do_at_once(make_daemon: MakeDaemon):
    daemon = make_daemon(stories.HOST, cpu_pool=stories.GENERAL).start()
    known, listings, reclaims, last = Known(), 0, 0, 0
    fill(daemon, known)
    rounds = max(CHOSEN.rival_seconds // SECONDS, 1)
    for round_ in range(rounds):
        seed = CHOSEN.seed * 1000 + round_
        crowd = Rivals(daemon.socket_path, known)
        crowd.start(seed)
        listings += observe(daemon, known, SECONDS + random.Random(seed).uniform(0, 0.1))
        daemon.kill()
        crowd.join()
        assert known.wrong == [], f"round {round_}, seed {CHOSEN.seed}"
        daemon.start()
        seen = witness.look(daemon)
        assert known.lies(seen) == [], f"after kill -9, round {round_}, seed {CHOSEN.seed}"
        known.begin_anew(seen)
        assert observe(daemon, known, 0.1) > 0
        assert known.wrong == [], f"after a start, round {round_}, seed {CHOSEN.seed}"
        daemon.stop()
        last, more = replay(daemon, last)
        reclaims += more
        daemon.start()
    granted = known.counts.pop("granted")
    refused = known.counts.total()
    assert min(granted, refused, listings) > 50 * rounds
    assert reclaims > 10 * rounds
    tally.add(
        "test_no_cpu_has_two_owners_whatever_many_clients_do_at_once",
        changes=granted,
        refused=refused,
        reclaims=reclaims,
        listings=listings,
        kills=rounds,
        two_owners=0,
    )
    assert known.counts.keys() <= EXPECTED, known.counts


EXPECTED = {
    "held-by-others",
    "insufficient-cpus",
    "no-cpus-in-node",
    "nothing-selected",
    "policy-downgrade",
    "wrong-pool",
}
