# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The charm's switch of Open vSwitch's CPU affinity: one file, and only its own."""

import ops
import pytest

from tests.unit.charm.machine import Machine
from tests.unit.charm.unit import Unit

OPTION = "ovs-dynamic-cpu-affinity"


@pytest.fixture
def finished(machine: Machine, unit: Unit) -> Machine:
    machine.add_installed()
    unit.hook("install")
    machine.done()
    return machine


def test_the_option_writes_the_file_and_takes_it_away(finished: Machine, unit: Unit):
    assert not finished.ovs_switch.parent.exists()
    unit.config[OPTION] = True
    assert isinstance(unit.hook("config_changed"), ops.ActiveStatus)
    written = finished.ovs_switch.stat()
    assert "epa-orchestrator" in finished.ovs_switch.read_text()
    unit.hook()
    assert finished.ovs_switch.stat().st_mtime_ns == written.st_mtime_ns
    unit.config[OPTION] = False
    assert isinstance(unit.hook("config_changed"), ops.ActiveStatus)
    assert not finished.ovs_switch.parent.exists()


@pytest.mark.parametrize("wanted", [False, True])
def test_a_file_of_somebody_else_stays(finished: Machine, unit: Unit, wanted: bool):
    finished.ovs_switch.parent.mkdir()
    finished.ovs_switch.write_text("yes\n")
    unit.config[OPTION] = wanted
    unit.hook("config_changed")
    assert finished.ovs_switch.read_text() == "yes\n"
    unit.hook("remove")
    assert finished.ovs_switch.read_text() == "yes\n"


def test_an_empty_file_is_off_and_may_be_filled(finished: Machine, unit: Unit):
    finished.ovs_switch.parent.mkdir()
    finished.ovs_switch.touch()
    unit.config[OPTION] = True
    unit.hook("config_changed")
    assert finished.ovs_switch.read_text()


def test_what_stands_in_its_place_is_named(finished: Machine, unit: Unit):
    finished.ovs_switch.mkdir(parents=True)
    unit.config[OPTION] = True
    status = unit.hook("config_changed")
    assert isinstance(status, ops.BlockedStatus)
    assert status.message.startswith("cannot switch Open vSwitch's affinity: ")
    assert "Is a directory" in status.message


def test_the_daemon_of_today_cannot_do_it(finished: Machine, unit: Unit):
    finished.daemon.old = True
    unit.config[OPTION] = True
    assert unit.hook("config_changed") == ops.BlockedStatus(
        "ovs-dynamic-cpu-affinity needs a newer daemon"
    )
    assert not finished.ovs_switch.parent.exists()


@pytest.mark.parametrize("kind", ["folder", "bytes", "no folder"])
def test_whatever_stands_there_is_no_fault_while_the_option_is_off(
    kind: str, finished: Machine, unit: Unit
):
    if kind == "no folder":
        finished.ovs_switch.parent.write_text("a file")
    else:
        finished.ovs_switch.parent.mkdir()
    if kind == "folder":
        finished.ovs_switch.mkdir()
    elif kind == "bytes":
        finished.ovs_switch.write_bytes(b"\xff\xfe")
    assert isinstance(unit.hook("config_changed"), ops.ActiveStatus)


def test_bytes_of_somebody_else_are_on_as_well(finished: Machine, unit: Unit):
    finished.ovs_switch.parent.mkdir()
    finished.ovs_switch.write_bytes(b"\xff\xfe")
    unit.config[OPTION] = True
    assert isinstance(unit.hook("config_changed"), ops.ActiveStatus)
    assert finished.ovs_switch.read_bytes() == b"\xff\xfe"


def test_leaving_takes_its_own_file_along(finished: Machine, unit: Unit):
    unit.config[OPTION] = True
    unit.hook("config_changed")
    unit.hook("remove")
    assert not finished.ovs_switch.exists()


def test_another_unit_on_the_machine_keeps_the_file(finished: Machine, unit: Unit):
    unit.config[OPTION] = True
    unit.hook("config_changed")
    (finished.tenants / "LCK..epa-orchestrator--revx1__other_0").touch()
    unit.hook("remove")
    assert finished.ovs_switch.exists()
