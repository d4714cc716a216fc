# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Power cuts that lose the disk's caches, under load: what was acknowledged is there."""

import itertools
import random
from pathlib import Path

from tests.faults import power, stories, tally
from tests.faults.budget import CHOSEN
from tests.faults.power import Recording
from tests.integration.lab.lab import Lab

# A machine takes so many disks beside its other devices.
DISKS = 10
SECONDS = 12


def lost(
    lab: Lab, served: Path, folder: Path, recording: Recording, flushes: list[int], seed: int
) -> list[list[str]]:
    """For each cut, everything in which the disk that it leaves disagrees with the clients."""
    chance, found = random.Random(seed), list[list[str]]()
    cuts = recording.record.cuts(recording.disk, flushes, chance)
    while batch := list(itertools.islice(cuts, DISKS)):
        seen = power.look(lab, served, folder, [disk for _, disk in batch])
        for (flush, _), shown in zip(batch, seen, strict=True):
            if isinstance(shown, str):
                found.append([shown])
            else:
                found.append(stories.lies(recording.told.stories, shown, until=flush))
    return found


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
        assert lost(lab, served, folder, recording, chosen, seed) == [[]] * count
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
    """The proof that the test above can fail."""
    served = power.serve(tmp_path / "served", careless=True)
    recording = power.record(lab, served, tmp_path, CHOSEN.seed, SECONDS)
    chosen = power.choose(recording, 3, random.Random(CHOSEN.seed))
    assert any(lost(lab, served, tmp_path, recording, chosen, CHOSEN.seed))
