# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The lab for pytest: name this module in pytest_plugins.

Without the programs that the lab needs its tests are skipped with a reason that says how to get
them; with EPA_LAB=required they fail instead.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.integration.lab import ready as machines
from tests.integration.lab.errors import MissingNeeds
from tests.integration.lab.lab import Lab
from tests.integration.lab.machine import Machine
from tests.integration.lab.template import Template


def go_without(error: MissingNeeds) -> NoReturn:
    """Skip the test, or fail it where the lab is required."""
    if os.environ.get("EPA_LAB") == "required":
        pytest.fail(f"EPA_LAB=required, but {error}", pytrace=False)
    pytest.skip(f"NO MACHINE TESTS: {error}")


@pytest.fixture(scope="session")
def lab() -> Lab:
    """Makes machines (see Lab)."""
    try:
        return Lab()
    except MissingNeeds as error:
        go_without(error)


@pytest.fixture(scope="session")
def daemon_snap(lab: Lab) -> Path:
    """The daemon's snap: EPA_SNAP's, or packed from this tree."""
    try:
        return machines.daemon_snap(lab)
    except MissingNeeds as error:
        go_without(error)


@pytest.fixture(scope="session")
def bare(lab: Lab) -> Template:
    """8 CPUs, 2-7 isolated, hugepages, snapd, the consumer snap; no daemon."""
    return machines.bare(lab)


@pytest.fixture(scope="session")
def installed(lab: Lab, daemon_snap: Path) -> Template:
    """As `bare`, with the daemon's snap; only what connects by itself is connected."""
    return machines.installed(lab, daemon_snap)


@pytest.fixture(scope="session")
def ready(lab: Lab, daemon_snap: Path) -> Template:
    """As `installed`, with every plug connected, the consumer's too."""
    return machines.connected(lab, daemon_snap)


@pytest.fixture
def machine(ready: Template) -> Iterator[Machine]:
    """A clone of `ready` for one test."""
    with ready.clone() as clone:
        yield clone
