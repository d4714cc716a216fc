# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Try to break every promise, and print the table of them: what `make trust` runs."""

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from tests.faults.promises import PROMISES, Promise

PROJECT = Path(__file__).parents[2]
LONGEST = ("test_fuzz.py", "test_power_cut.py")
PAGE = PROJECT / "docs/explanation/promises.md"
_BEGIN, _END = "<!-- begin: make trust -->", "<!-- end: make trust -->"
# Added up over the runs of a test; of these, the largest is what counts.
_LARGEST = ("median_ratio", "p99_ratio", "memory_mb", "seconds")

Counts = dict[str, dict[str, float]]


def main(arguments: list[str]) -> int:
    """Run what the options ask for; 1 if a promise was broken."""
    options = _options(arguments)
    outcomes: dict[str, str] = {}
    tally = options.counts or Path(tempfile.mkstemp(prefix="epa-trust-")[1])
    started = time.monotonic()
    if not options.counts:
        for number, chosen in enumerate(_phases(options.quick)):
            outcomes |= _run(chosen, tally, options.quick, number)
        print(f"\n{time.monotonic() - started:.0f} s; the counts are in {tally}\n")
    table = _table(_read(tally), outcomes)
    print(table)
    if options.write:
        text = PAGE.read_text()
        start, end = text.index(_BEGIN) + len(_BEGIN), text.index(_END)
        PAGE.write_text(f"{text[:start]}\n{table}\n{text[end:]}")
    return int(not options.counts and not kept(outcomes, options.quick))


def kept(outcomes: dict[str, str], quick: bool) -> bool:
    """Whether every promise was tried and kept; what was not tried is excused in a quick run."""
    if "failed" in outcomes.values():
        return False
    skipped = [p.test for p in PROMISES if _outcome(p.test, outcomes) == "not run"]
    for test in skipped:
        print(f"not run: {test}")
    return quick or not skipped


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make trust", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="as for every change")
    parser.add_argument("--write", action="store_true", help=f"into {PAGE.name}, too")
    parser.add_argument("--counts", type=Path, help="run nothing; the counts of earlier runs")
    return parser.parse_args(arguments)


def _phases(quick: bool) -> list[list[str]]:
    """What runs side by side, on two workers: groups first, as xdist has it, then the longest.

    Hostile clients are a group, one after the other; in the full run they have the machine alone.
    """
    hostile = "tests/faults/test_hostile.py"
    files = sorted(path.name for path in (PROJECT / "tests/faults").glob("test_*.py"))
    files.sort(key=lambda name: name not in LONGEST)
    chosen = [*(f"tests/faults/{name}" for name in files), *_functional_tests()]
    workers = ["-n2", "--dist", "loadgroup"]
    if quick:
        return [[*workers, *chosen]]
    return [[*workers, *(test for test in chosen if test != hostile)], [hostile]]


def _functional_tests() -> list[str]:
    return [promise.test for promise in PROMISES if "/functional/" in promise.test]


def _run(chosen: list[str], tally: Path, quick: bool, number: int) -> dict[str, str]:
    """Outcomes by test."""
    report = tally.with_name(f"{tally.name}-{number}.xml")
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "--durations=10"]
    environment = {"EPA_TRUST_TALLY": str(tally), "EPA_TRUST": "quick" if quick else "full"}
    subprocess.run([*command, *chosen], cwd=PROJECT, env=os.environ | environment, check=False)
    outcomes: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        path = case.attrib["classname"].replace(".", "/") + ".py"
        outcome = "failed" if kinds & {"failure", "error"} else "passed"
        # A test of a group has its name at the end.
        name = re.sub(r"@\w+$", "", case.attrib["name"])
        outcomes[f"{path}::{name}"] = "skipped" if "skipped" in kinds else outcome
    report.unlink()
    return outcomes


def _read(tally: Path) -> Counts:
    found: Counts = {}
    for line in tally.read_text().splitlines():
        said = json.loads(line)
        counts = found.setdefault(said["test"], {})
        for name, count in said["counts"].items():
            before = counts.get(name, 0)
            counts[name] = max(before, count) if name in _LARGEST else before + count
    return found


def _table(counts: Counts, outcomes: dict[str, str]) -> str:
    today = datetime.datetime.now(datetime.UTC).date()
    kernel = ".".join(re.findall(r"\d+", platform.release())[:2])
    machine = f"{os.cpu_count()} CPUs, Linux {kernel}, Python {platform.python_version()}"
    rows = [row(promise, counts, outcomes) for promise in PROMISES]
    head = ["| promise | what | test | tried | where it does not hold |", "|---|---|---|---|---|"]
    return "\n".join([f"{today}, {machine}:", "", *head, *rows])


def row(promise: Promise, counts: Counts, outcomes: dict[str, str]) -> str:
    """One line of the table."""
    path, name = promise.test.split("::")
    tried = counts.get(name, counts.get(name.split("[")[0], {}))
    shown = ", ".join(f"{count:,} {_words(key)}" for key, count in tried.items())
    outcome = _outcome(promise.test, outcomes)
    shown = "; ".join(text for text in (outcome, shown) if text)
    link = f"[{_words(name.removeprefix('test_'))}](../../{path})"
    return f"| {promise.name} | {promise.text} | {link} | {shown} | {promise.but} |"


def _outcome(test: str, outcomes: dict[str, str]) -> str:
    """What is worth a word: the worst of a test's outcomes, unless it passed."""
    found = {o for name, o in outcomes.items() if name == test or name.startswith(f"{test}[")}
    return _worst(found) if outcomes else ""


def _worst(found: Iterable[str]) -> str:
    known = [outcome for outcome in ("failed", "skipped", "passed") if outcome in found]
    return {"failed": "**FAILED**", "skipped": "not run", "passed": "passed"}[
        (known or ["skipped"])[0]
    ]


def _words(name: str) -> str:
    return name.replace("_", " ")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
