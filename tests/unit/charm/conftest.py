# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

import pathlib

import pytest

from tests.unit.charm.machine import Machine
from tests.unit.charm.unit import Unit


@pytest.fixture
def machine(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with snapd and nothing installed."""
    return Machine(tmp_path, monkeypatch)


@pytest.fixture
def unit(machine: Machine) -> Unit:
    """A unit of the charm on that machine."""
    return Unit(machine)
