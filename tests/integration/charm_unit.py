# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A unit of the packed charm in a machine: real dispatch, ops and snapd, stub hook tools."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration.lab import standins
from tests.integration.lab.machine import Machine
from tests.integration.orchestrator import Orchestrator

HOOK_TOOLS = Path(__file__).with_name("hook_tools")
PYTHON = "/usr/local/python3.12/bin/python3.12"
CHARM = "/root/charm"
BUNDLE = f"{CHARM}/bundle/epa-orchestrator.snap"
DEFAULTS = {"snap-channel": "", "cpu-pool": "", "epa-info-plugs": "openstack-hypervisor:epa-info"}
# Nothing held yet: what the machine of the lab is when the charm is done.
IDLE = "active: 0/6 CPUs held, 1G pages 0/2, 2M pages 0/64"
HOOK_SECONDS = 420.0
HYPERVISOR_YAML = """\
name: {name}
version: "1"
summary: Stands for a client that the charm connects
description: Its configure hook keeps every trigger that it was run for.
base: core24
confinement: strict
grade: stable
architectures: [all]
plugs:
  epa-info:
    interface: content
    content: epa-info
    target: $SNAP_DATA
  network:
apps:
  ask:
    command: bin/ask
    plugs: [epa-info]
"""
CONFIGURE = """\
#!/bin/sh
snapctl get configure-trigger >> "$SNAP_COMMON/triggers"
"""


@dataclass(frozen=True)
class Outcome:
    """What one dispatch did, as Juju would see it.

    Attributes:
        statuses: every status that was set, as `kind: text`.
        results: of an action.
        failure: why an action failed; "" if it did not.
        log: what went to juju-log, as `LEVEL text`.
    """

    statuses: list[str]
    results: dict[str, str]
    failure: str
    log: list[str]
    version: str

    @property
    def status(self) -> str:
        return self.statuses[-1] if self.statuses else "none set"


class Unit:
    """The charm's unit epa-orchestrator/0; its options stay from one event to the next."""

    def __init__(self, machine: Machine):
        self.machine = machine
        self.epa = Orchestrator(machine)
        self.config: dict[str, Any] = dict(DEFAULTS)
        self.resource: str | None = None

    def run(self, event: str, **parameters: Any) -> Outcome:
        """Dispatch an event, which must not fail."""
        state = {"config": self.config, "resource": self.resource, "parameters": parameters}
        self.machine.write("/root/state.json", json.dumps(state))
        words = [PYTHON, "/root/hook_tools/hook.py", CHARM, "/root/state.json", event]
        result = json.loads(self.machine.run(words, timeout=HOOK_SECONDS).stdout)
        assert result["code"] == 0, result["stderr"]
        return _outcome(result["calls"])

    def act(self, action: str, **parameters: Any) -> dict[str, str]:
        """The results of an action that must not fail; underscores stand for dashes."""
        named = {name.replace("_", "-"): value for name, value in parameters.items()}
        outcome = self.run(f"actions/{action}", **named)
        assert outcome.failure == "", outcome
        return outcome.results

    def fail(self, action: str, **parameters: Any) -> str:
        """Why an action failed, which it must, in one line."""
        named = {name.replace("_", "-"): value for name, value in parameters.items()}
        outcome = self.run(f"actions/{action}", **named)
        assert outcome.failure, outcome
        assert "\n" not in outcome.failure
        return outcome.failure

    def changes(self) -> list[str]:
        """Every change that snapd made so far, its text without id and times."""
        lines = self.machine.run(["snap", "changes", "--abs-time"]).stdout.splitlines()[1:]
        return [line.split(maxsplit=4)[4] for line in lines if line]

    def connections(self) -> dict[str, str]:
        """Plug -> slot, of what belongs to the snap."""
        lines = self.machine.run("snap connections epa-orchestrator").stdout.splitlines()[1:]
        return {line.split()[1]: line.split()[2] for line in lines}

    def revision(self) -> str:
        return self.machine.run("readlink /snap/epa-orchestrator/current").stdout.strip()

    def notes(self) -> str:
        """What `snap list` notes, such as `held`."""
        return self.machine.run("snap list epa-orchestrator").stdout.split()[-1]

    def is_installed(self) -> bool:
        return self.machine.run("snap list epa-orchestrator", check=False).returncode == 0

    def references(self) -> list[str]:
        return self.machine.run("ls /opt/singleton_snaps", check=False).stdout.split()


def place(machine: Machine, charm: Path) -> None:
    """Unzip the packed charm in the guest, and lay the hook tools beside it.

    The guest's Python 3.12 goes where the charm's base has it: its virtual environment says so.
    """
    for part in ("bin/python3.12", "lib/python3.12"):
        machine.run(["ln", "-s", f"/usr/local/python3.12/{part}", f"/usr/{part}"])
    machine.put(charm, "/root/epa-orchestrator.charm")
    unzip = [PYTHON, "-m", "zipfile", "-e", "/root/epa-orchestrator.charm", CHARM]
    machine.run(unzip, timeout=120)
    machine.run(["chmod", "0755", f"{CHARM}/dispatch"])
    for tool in HOOK_TOOLS.glob("*.py"):
        machine.write(f"/root/hook_tools/{tool.name}", tool.read_bytes(), 0o755)
    # Every module is compiled once, which takes long on an emulated CPU.
    Unit(machine).run("actions/list-allocations")


def start(machine: Machine) -> None:
    """The unit's first hooks; afterwards the consumer, whose plug no option names, is let in."""
    unit = Unit(machine)
    for hook in ("install", "config-changed", "start"):
        outcome = unit.run(hook)
        assert outcome.status == IDLE, outcome
    machine.run("snap connect epa-consumer:epa-info epa-orchestrator:epa-info", timeout=120)


def client(name: str, out: Path) -> Path:
    """A snap with a plug for the daemon and a configure hook that counts."""
    files = {
        "meta/hooks/configure": CONFIGURE,
        "bin/ask": (standins.CONSUMER / "bin/ask").read_text(),
    }
    return standins.bare_client(name, HYPERVISOR_YAML.format(name=name), files, out)


def _outcome(calls: list[list[str]]) -> Outcome:
    by_tool: dict[str, list[list[str]]] = {}
    for tool, *arguments in calls:
        by_tool.setdefault(tool, []).append(arguments)
    sets = [_words([call])[1:] for call in by_tool.get("status-set", [])]
    pairs = [word.split("=", 1) for call in by_tool.get("action-set", []) for word in call]
    return Outcome(
        statuses=[f"{kind}: {' '.join(text)}" for kind, *text in sets],
        results=dict(pairs),
        failure=" ".join(_words(by_tool.get("action-fail", []))),
        log=[f"{call[1]} {call[-1]}" for call in by_tool.get("juju-log", [])],
        version=" ".join(_words(by_tool.get("application-version-set", []))),
    )


def _words(calls: list[list[str]]) -> list[str]:
    return [word for call in calls for word in call if word != "--"]
