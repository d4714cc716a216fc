# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""From the start of the process to its first answer."""

import functools
import time
from pathlib import Path

from benchmarks import effort, hosts, processes
from benchmarks.effort import Effort
from benchmarks.hosts import Scene
from benchmarks.pinning import Cpus
from benchmarks.report import Row, Section

_TARGET = 0.5


def measure(folder: Path, cpus: Cpus, chosen: Effort) -> list[Section]:
    """Start daemons on states that are already there."""
    scenes = (hosts.small(), hosts.large())
    measures = {
        scene.name: functools.partial(_start, _filled(scene, folder / f"start{n}", cpus), cpus)
        for n, scene in enumerate(scenes)
    }
    found = effort.taking_turns(measures, chosen.starts)
    rows = [Row(name, seconds, "s", target=_TARGET) for name, seconds in found.items()]
    return [Section("Start of the process to its first answer", rows)]


def _filled(scene: Scene, folder: Path, cpus: Cpus) -> Path:
    with processes.loaded_daemon(scene, folder, cpus):
        return folder


def _start(folder: Path, cpus: Cpus) -> float:
    start = time.perf_counter()
    with processes.daemon(folder, cpus):
        return time.perf_counter() - start
