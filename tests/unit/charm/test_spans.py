# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Traces show where the time of a hook or an action goes."""

import subprocess
from typing import Any

import pytest

import snapd
from snapd import run as snap_command
from tests.unit.charm.machine import Machine
from tests.unit.charm.unit import Unit


def test_an_install_shows_each_change_and_each_question(machine: Machine, unit: Unit):
    machine.add_client("openstack-hypervisor")
    unit.config["cpu-pool"] = "0-1"
    unit.hook("install")
    assert unit.spans >= {
        "reconcile",
        "snap install",
        "snap hold",
        "snap connect",
        "snap restart",
        "snap set",
        "snapd GET /v2/connections",
        "snapd GET /v2/apps",
        "daemon look",
    }


@pytest.mark.parametrize(
    ("name", "parameters", "spans"),
    [
        ("health-check", {}, {"daemon get_health"}),
        ("allocate-cores", {"service_name": "a", "cores": 1}, {"daemon allocate_cores"}),
        ("refresh-snap", {}, {"refresh", "reconcile"}),
        ("restart-daemon", {}, {"snap restart"}),
    ],
)
def test_an_action_shows_what_it_asks_of_the_daemon(
    name: str,
    parameters: dict[str, Any],
    spans: set[str],
    machine: Machine,
    unit: Unit,
):
    unit.hook("install")
    unit.action(name, **parameters)
    assert unit.spans >= spans | {"daemon list_allocations", "daemon get_memory_info"}


def test_the_commands_of_the_snap_are_shown(
    machine: Machine, unit: Unit, monkeypatch: pytest.MonkeyPatch
):
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 0, "the map", "")

    unit.hook("install")
    monkeypatch.setattr(snapd, "run", snap_command)
    monkeypatch.setattr(snapd.subprocess, "run", run)
    assert unit.action("show-topology") == {"topology": "the map"}
    assert "/usr/bin/snap run" in unit.spans


def test_leaving_shows_the_removal(machine: Machine, unit: Unit):
    unit.hook("install")
    unit.hook("remove")
    assert unit.spans >= {"leave", "snap remove", "daemon look"}
