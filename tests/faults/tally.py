# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What a test tried, told to whoever runs it for the table of promises."""

import json
import os


def add(test: str, **counts: float) -> None:
    """Add counts to a test's: one line in the file EPA_TRUST_TALLY, where one is asked for."""
    print(f"{test}: {counts}")
    if target := os.environ.get("EPA_TRUST_TALLY"):
        with open(target, "a") as out:
            out.write(json.dumps({"test": test, "counts": counts}) + "\n")
