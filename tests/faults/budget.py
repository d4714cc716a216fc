# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""How much is tried: little for every change (EPA_TRUST unset), or the full numbers (full)."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Rounds, seconds and counts of one run.

    Attributes:
        faults: writes and syncs that are made to fail, one after the other, for each kind.
        flips: bits that are turned over in the store's files.
        cuts: power cuts.
        fuzz_seconds: of each fuzzer.
        rival_seconds: for which clients fight over CPUs.
        host_changes: changes of the host between two looks.
        closes: connections that end early; the other hostile clients are as many in either run.
    """

    seed: int
    crashes: int
    cuts: int
    faults: int
    flips: int
    host_changes: int
    fuzz_seconds: int
    rival_seconds: int
    closes: int


QUICK = Budget(1, 40, 5, 12, 200, 12, 60, 8, 10_000)
FULL = Budget(2, 500, 50, 60, 5000, 150, 600, 60, 10_000)
CHOSEN = FULL if os.environ.get("EPA_TRUST") == "full" else QUICK
