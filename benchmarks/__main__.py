# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""`python -m benchmarks`: measure everything and print one table."""

import argparse
import gc
import json
import os
import platform
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import affinity, crowd, effort, latency, parts, pinning, report, scaling, starting
from benchmarks.effort import Effort
from benchmarks.pinning import Cpus
from benchmarks.report import Section

Part = Callable[[Path, Cpus, Effort], list[Section]]

# Each in a folder of its own, with its own processes.
_PARTS: dict[str, Part] = {
    "latency": latency.measure,
    "scaling": scaling.measure,
    "crowd": crowd.measure,
    "starting": starting.measure,
    "affinity": affinity.measure,
    "parts": parts.measure,
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the daemon against floors taken in the same run. "
        "State is written to the folder for temporary files: set TMPDIR to choose the disk.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the results here")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    return parser.parse_args()


def main() -> None:
    """Run all parts; missed targets are for the reader to judge, and do not fail the run."""
    options = _options()
    chosen = effort.QUICK if options.quick else effort.FULL
    start, load_before = time.monotonic(), os.getloadavg()[0]
    sections: list[Section] = []
    # A collection in the client would be timed as if the server had been slow.
    gc.disable()
    with pinning.pinned() as cpus, tempfile.TemporaryDirectory(prefix="epa-bench-") as folder:
        for name, part in _PARTS.items():
            print(f"measuring: {name}", flush=True)
            own = Path(folder, name)
            own.mkdir()
            sections += part(own, cpus, chosen)
        about = (
            f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}; {cpus}; "
            f"load average before: {load_before:.1f}; "
            f"medians of {chosen.rounds} rounds that take turns; {time.monotonic() - start:.0f} s"
        )
    print(f"\n{about}\n\n{report.table(sections)}")
    if options.json:
        _write(options.json, about, sections)


def _write(file: Path, about: str, sections: list[Section]) -> None:
    content = {
        "about": about,
        "sections": [
            {"title": section.title, "rows": [row.as_dict() for row in section.rows]}
            for section in sections
        ],
    }
    file.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
