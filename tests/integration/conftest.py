# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Machines with the orchestrator in them."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.lab import ready as machines
from tests.integration.lab import standins
from tests.integration.lab.lab import Lab
from tests.integration.lab.machine import Machine
from tests.integration.lab.template import Template
from tests.integration.orchestrator import Orchestrator

pytest_plugins = ["tests.integration.lab.fixtures"]

DEPLOYED = Path(__file__).with_name("snaps") / "deployed"


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the tests under a real Juju deploy beside."""
    parser.addoption("--principal", help="principal charm, instead of the minimal one")
    parser.addoption("--principal-channel", help="its channel")


@pytest.fixture
def epa(machine: Machine) -> Orchestrator:
    """The snap with everything connected."""
    return Orchestrator(machine)


@pytest.fixture
def unconnected(installed: Template) -> Iterator[Orchestrator]:
    """The snap as installed: only what connects by itself is, and the consumer."""
    with installed.clone() as machine:
        machine.run("snap connect epa-consumer:epa-info epa-orchestrator:epa-info", timeout=120)
        yield Orchestrator(machine)


@pytest.fixture(scope="session")
def deployed_template(
    lab: Lab, bare: Template, tmp_path_factory: pytest.TempPathFactory
) -> Template:
    packed = tmp_path_factory.mktemp("deployed") / "deployed.snap"
    standins.pack(DEPLOYED, packed)
    prepare = functools.partial(_deploy, snap=packed)
    return lab.derive("deployed", bare, prepare, [DEPLOYED, Path(__file__)])


def _deploy(machine: Machine, snap: Path) -> None:
    machines.install(machine, snap)
    machine.run("snap connect epa-consumer:epa-info epa-orchestrator:epa-info", timeout=120)


@pytest.fixture
def deployed(deployed_template: Template, daemon_snap: Path) -> Iterator[Orchestrator]:
    """What is deployed today, with a client connected; `refresh` brings this project's snap."""
    with deployed_template.clone() as machine:
        machine.put(daemon_snap, f"/root/{daemon_snap.name}")
        yield Orchestrator(machine)
