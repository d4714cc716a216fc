# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""How much is measured, and how: in rounds that take turns."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MICROSECONDS = 1e6


@dataclass(frozen=True)
class Effort:
    """How often things are repeated.

    Attributes:
        rounds: turns that each measurement of a group gets.
        samples: requests (or cycles of them) in one turn.
        crowd_rounds: the same for the measurements with many clients, which take longer.
        crowd_requests: requests of each of these clients in one turn.
        starts: how often the daemon is started.
    """

    rounds: int
    samples: int
    crowd_rounds: int
    crowd_requests: int
    starts: int


FULL = Effort(rounds=31, samples=40, crowd_rounds=7, crowd_requests=150, starts=5)
QUICK = Effort(rounds=5, samples=10, crowd_rounds=3, crowd_requests=40, starts=3)


def taking_turns(measures: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of what each measure returned.

    All of them go through every round together: on a shared machine, what slows one of them
    for a while then slows the others too, and the median leaves out the rounds that it hit.
    """
    taken: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            taken[name].append(measure())
    return {name: statistics.median(values) for name, values in taken.items()}
