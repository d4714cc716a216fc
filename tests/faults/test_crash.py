# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""kill -9 at random moments under load: what was acknowledged is there, and nothing is twice."""

import contextlib
import random
import sqlite3
import time

from epa_daemon import cpulist, state_folder
from tests.faults import stories, tally, witness
from tests.faults.budget import CHOSEN
from tests.faults.load import Crowd
from tests.faults.witness import Witness
from tests.functional.daemons import Daemon, MakeDaemon

CLIENTS = 4


def kill_under_load(daemon: Daemon, told: Witness, seed: int) -> None:
    crowd = Crowd(daemon.socket_path, CLIENTS, seed, told.note)
    crowd.start()
    time.sleep(random.Random(seed).uniform(0, 0.15))
    daemon.kill()
    crowd.join()


def kill_while_it_starts(daemon: Daemon, seed: int) -> None:
    daemon.launch()
    time.sleep(random.Random(seed).uniform(0.1, 0.5))
    daemon.kill()


def test_kill_9_loses_nothing_that_was_acknowledged(make_daemon: MakeDaemon):
    daemon = make_daemon(stories.HOST, cpu_pool=stories.GENERAL).start()
    told, replies, unanswered = Witness(), 0, 0
    for round_ in range(CHOSEN.crashes):
        kill_under_load(daemon, told, CHOSEN.seed * 1_000_000 + round_)
        replies += stories.acknowledged(told.stories.values())
        unanswered += sum(s.steps[-1].reply is None for s in told.stories.values() if s.steps)
        if round_ % 10 == 9:
            kill_while_it_starts(daemon, round_)
        daemon.start()
        seen = witness.look(daemon)
        assert stories.lies(told.stories, seen) == [], f"round {round_}, seed {CHOSEN.seed}"
        told.begin_anew(seen)
    assert replies > 10 * CHOSEN.crashes
    assert unanswered > 0
    check_history(daemon)
    tally.add(
        "test_kill_9_loses_nothing_that_was_acknowledged",
        rounds=CHOSEN.crashes,
        acknowledged=replies,
        unanswered=unanswered,
        lost=0,
    )


def check_history(daemon: Daemon) -> None:
    """The history has no gap: each change begins where the last one of its kind ended."""
    seen = witness.look(daemon)
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.state / state_folder.DATABASE)) as store:
        rows = store.execute("SELECT service, subject, before, after FROM events ORDER BY id")
        last: dict[tuple[str, str], str] = {}
        for service, subject, before, after in rows:
            assert last.get((service, subject), before) == before
            last[service, subject] = after
    for (service, subject), after in last.items():
        if subject.startswith("cpus"):
            held = seen.get(service, stories.NOTHING).cpus
            assert cpulist.parse(after.split(" ")[0]) == held


def test_the_comparison_sees_what_is_lost_doubled_or_half_done():
    """What the other tests rest on: it would notice."""
    grant = {"action": "allocate_cores", "pool": "isolated", "num_of_cores": 2}
    story = stories.Story()
    story.asked(grant)
    story.told({"allocated_cores": "20-21"})
    held = stories.Held(frozenset({20, 21}))
    assert stories.lies({"a": story}, {"a": held}) == []
    assert stories.lies({"a": story}, {}) != []
    assert stories.lies({"a": story}, {"a": stories.Held(frozenset({20}))}) != []
    assert stories.lies({"a": story}, {"a": held, "b": held}) != []
    story.asked({**grant, "num_of_cores": 4})
    assert stories.lies({"a": story}, {"a": held}) == []
    assert stories.lies({"a": story}, {"a": stories.Held(frozenset({20, 21, 22, 23}))}) == []
    assert stories.lies({"a": story}, {"a": stories.Held(frozenset({20, 21, 22}))}) != []
    assert stories.lies({"a": story}, {}) != []
