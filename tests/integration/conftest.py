# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Machines with the orchestrator in them."""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import charm_files, charm_unit
from tests.integration.charm_unit import Unit
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


@pytest.fixture(scope="session")
def charm(lab: Lab, daemon_snap: Path) -> Path:
    """The packed charm, with the lab's snap of the daemon in it."""
    return charm_files.cached_charm(lab, daemon_snap)


@pytest.fixture(scope="session")
def charmed_template(lab: Lab, bare: Template, charm: Path) -> Template:
    """A machine with the unzipped charm, none of whose hooks has run."""
    prepare = functools.partial(charm_unit.place, charm=charm)
    inputs = [charm, charm_unit.HOOK_TOOLS, Path(charm_unit.__file__)]
    return lab.derive("charmed", bare, prepare, inputs)


@pytest.fixture(scope="session")
def deployed_unit_template(lab: Lab, charmed_template: Template) -> Template:
    """The same after its first hooks, and with the consumer connected."""
    return lab.derive("charm-unit", charmed_template, charm_unit.start, [])


@pytest.fixture
def fresh(charmed_template: Template) -> Iterator[Unit]:
    """A unit before its install hook."""
    with charmed_template.clone() as machine:
        yield Unit(machine)


@pytest.fixture
def unit(deployed_unit_template: Template) -> Iterator[Unit]:
    """A unit that is active."""
    with deployed_unit_template.clone() as machine:
        yield Unit(machine)
