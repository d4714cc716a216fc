# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What the packed snap holds, and what not."""

import re
import subprocess
from pathlib import Path

import pytest

LIMIT = 8_000_000
FOREIGN = re.compile(
    r"/(tests?|test_[^/]*|pip|setuptools|uv|\.git[^/]*|\.cache|[^/]*\.(c|h|a|o))$"
)


@pytest.fixture(scope="module")
def names(daemon_snap: Path) -> list[str]:
    command = ["unsquashfs", "-l", "-d", "", str(daemon_snap)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_it_is_small(daemon_snap: Path):
    assert daemon_snap.stat().st_size < LIMIT


def test_its_wheels_are_for_the_interpreter_of_its_base(names: list[str]):
    libraries = [name for name in names if name.endswith(".so")]
    assert libraries
    assert all("cpython-312-" in name for name in libraries)
    assert "/bin/python3" in names


def test_it_has_its_hooks_and_no_tests_caches_or_compilers(names: list[str]):
    hooks = {name.rpartition("/")[2] for name in names if name.startswith("/meta/hooks/")}
    assert hooks == {"install", "configure", "post-refresh"}
    assert [name for name in names if FOREIGN.search(name)] == []
