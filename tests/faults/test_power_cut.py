# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Power cuts that lose the disk's caches, under load: what was acknowledged is there."""

import contextlib
import itertools
import random
import re
import shutil
import sqlite3
from pathlib import Path

from epa_daemon import state_folder
from tests.faults import power, stories, tally
from tests.faults.budget import CHOSEN
from tests.faults.power import Recording
from tests.faults.stories import Held
from tests.functional.daemons import MakeDaemon
from tests.integration.lab.lab import Lab

# A machine takes so many disks beside its other devices.
DISKS = 10
SECONDS = 12
# What is lost without a sync is found after nearly every one.
CARELESS_CUTS = 5
# What a daemon says of a store that is not what it committed, and of nothing else.
NOTICE = re.compile(
    "older than what was acknowledged|is missing although|does not hold what was committed"
    "|is damaged|is malformed|is not a database|is not a store of this daemon"
    "|the store .* cannot be read|were acknowledged, cannot be read"
)


def shown_after(
    lab: Lab, served: Path, folder: Path, recording: Recording, flushes: list[int], seed: int
) -> list[tuple[int, dict[str, Held] | str]]:
    """For each cut its flush, and what a daemon shows afterwards, or why it does not start."""
    found: list[tuple[int, dict[str, Held] | str]] = []
    cuts = recording.record.cuts(recording.disk, flushes, random.Random(seed))
    while batch := list(itertools.islice(cuts, DISKS)):
        seen = power.look(lab, served, folder, [disk for _, disk in batch])
        found += zip((flush for flush, _ in batch), seen, strict=True)
    return found


def wrong(recording: Recording, flush: int, shown: dict[str, Held] | str) -> list[str]:
    """Everything in which a daemon after a cut disagrees with the clients."""
    if isinstance(shown, str):
        return [shown]
    return stories.lies(recording.told.stories, shown, until=flush)


def notices_a_loss(log: str) -> bool:
    """Whether a daemon that did not start says that what it finds is not what was committed."""
    last = log.rstrip().rpartition("\n")[2]
    return bool(NOTICE.search(last)) and "Traceback" not in log


def test_a_power_cut_loses_nothing_that_was_acknowledged(lab: Lab, tmp_path: Path):
    served = power.serve(tmp_path / "served")
    cuts = replies = flushes = 0
    for number in range(-(-CHOSEN.cuts // DISKS)):
        folder = tmp_path / str(number)
        folder.mkdir()
        seed = CHOSEN.seed * 1000 + number
        recording = power.record(lab, served, folder, seed, SECONDS)
        count = min(DISKS, CHOSEN.cuts - cuts)
        chosen = power.choose(recording, count, random.Random(seed))
        for flush, shown in shown_after(lab, served, folder, recording, chosen, seed):
            assert wrong(recording, flush, shown) == [], f"{flush=}, {seed=}"
        cuts += count
        replies += stories.acknowledged(recording.told.stories.values())
        flushes += recording.record.flushes
    assert replies > 10 * cuts
    tally.add(
        "test_a_power_cut_loses_nothing_that_was_acknowledged",
        cuts=cuts,
        acknowledged=replies,
        flushes=flushes,
        lost=0,
    )


def test_a_daemon_that_does_not_sync_is_found_out(lab: Lab, tmp_path: Path):
    """The proof that the test above can fail: for a loss, and not for any other reason."""
    served = power.serve(tmp_path / "served", careless=True)
    recording = power.record(lab, served, tmp_path, CHOSEN.seed, SECONDS)
    chosen = power.choose(recording, CARELESS_CUTS, random.Random(CHOSEN.seed))
    lied = refused = 0
    for flush, shown in shown_after(lab, served, tmp_path, recording, chosen, CHOSEN.seed):
        if isinstance(shown, str):
            assert notices_a_loss(shown), shown
            refused += 1
        else:
            lied += wrong(recording, flush, shown) != []
    assert lied + refused > 0
    tally.add(
        "test_a_daemon_that_does_not_sync_is_found_out",
        cuts=CARELESS_CUTS,
        found_by_what_it_shows=lied,
        found_by_its_refusal=refused,
    )


def test_a_daemon_that_does_not_start_for_another_reason_is_not_found_out(
    make_daemon: MakeDaemon,
):
    daemon = make_daemon().start()
    daemon.ask("allocate_cores", service_name="a", num_of_cores=1)
    assert not notices_a_loss(daemon.run().stderr), "another daemon runs"
    daemon.kill()
    whole = daemon.folder / "whole"
    shutil.copytree(daemon.state, whole)
    with contextlib.closing(sqlite3.connect(daemon.state / state_folder.DATABASE)) as torn:
        torn.execute("DELETE FROM services")
        torn.commit()
    assert notices_a_loss(daemon.run().stderr), "claims without the page of their service"
    shutil.rmtree(daemon.state)
    whole.rename(daemon.state)
    log = daemon.state / f"{state_folder.DATABASE}-wal"
    log.unlink()
    assert notices_a_loss(daemon.run().stderr)
    (daemon.state / state_folder.DATABASE).unlink()
    assert notices_a_loss(daemon.run().stderr)
    assert not notices_a_loss(daemon.run("--no-such-option").stderr)
    assert not notices_a_loss("Traceback (most recent call last):\nValueError: it is damaged")
