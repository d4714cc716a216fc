# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A strict stand-in for snapd, its store, files and the daemon: what it does not know, fails.

Reads are free; every change is recorded in `changes`, in words, so that a test can ask for exactly
those that it expects.
"""

import dataclasses
import datetime
import json
import pathlib
import urllib.parse
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from charmlibs import snap as snaplib
from charms.epa_orchestrator.v0 import epa_client

import daemon
import ovs_switch
import snapd
import sources
import tenants
from tests.unit.charm.fake_daemon import FakeDaemon

NAME = "epa-orchestrator"
FOREVER = datetime.datetime(2318, 1, 1, tzinfo=datetime.UTC)
NEW_PLUGS = {
    "network-bind": "network-bind",
    "hardware-observe": "hardware-observe",
    "process-control": "process-control",
    "etc-openvswitch": "system-files",
}
OLD_PLUGS = {"network-bind": "network-bind", "hardware-observe": "hardware-observe"}
SNAP_FILE = b"hsqs name=epa-orchestrator "


@dataclasses.dataclass
class Snap:
    revision: str
    version: str = "1.0"
    channel: str = ""
    hold: datetime.datetime | None = None
    plugs: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    options: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    active: bool = True
    old: bool = False


def api_error(message: str, kind: str = "") -> snaplib.APIError:
    return snaplib.APIError(message, kind=kind, value="")


class Machine:
    def __init__(self, folder: pathlib.Path, patch: pytest.MonkeyPatch):
        self.folder = folder
        self.bundle = folder / "charm/bundle/epa-orchestrator.snap"
        self.resource = folder / "resource.snap"
        self.blobs = folder / "blobs"
        self.tenants = folder / "singleton_snaps"
        self.ovs_switch = folder / "openvswitch/enable_dynamic_cpu_affinity"
        self.snaps: dict[str, Snap] = {}
        self.connections: set[tuple[str, str, str, str]] = set()
        self.store: dict[str, Snap] = {}
        self.daemon = FakeDaemon()
        self.changes: list[str] = []
        self.failures: dict[str, Exception] = {}
        self.snapd_changes: list[dict[str, Any]] = []
        self.slow = ""
        self.troubles: dict[str, Callable[[], Exception | None]] = {}
        self.deeds: dict[str, Callable[[], None]] = {}
        self.snapd_error: snaplib.Error | None = None
        self.daemon_dead = False
        self.cured_by_restart = True
        self.check_says = '{"ok": true, "problems": []}'
        self.now = 1000.0
        self.bundle.parent.mkdir(parents=True)
        self.blobs.mkdir()
        self.bundle.write_bytes(SNAP_FILE + b"bundle 1")
        self.resource.write_bytes(b"")
        self._patch(patch)

    @property
    def snap(self) -> Snap:
        return self.snaps[NAME]

    @property
    def references(self) -> list[str]:
        there = self.tenants.is_dir()
        return sorted(path.name for path in self.tenants.iterdir()) if there else []

    def done(self) -> list[str]:
        """The changes since the last call."""
        changes, self.changes = self.changes, []
        return changes

    def add_installed(self, **fields: Any) -> Snap:
        """A snap from the bundle, held and connected, as a finished install leaves it."""
        fields = {"revision": "x1", "hold": FOREVER, "plugs": dict(NEW_PLUGS)} | fields
        self.snaps[NAME] = Snap(**fields)
        if fields["revision"].startswith("x"):
            blob = self.blobs / f"{NAME}_{fields['revision']}.snap"
            blob.write_bytes(self.bundle.read_bytes())
        for plug in self.snap.plugs:
            self.connections.add((NAME, plug, "snapd", plug))
        return self.snap

    def add_client(self, name: str, plug: str = "epa-info", interface: str = "content") -> None:
        self.snaps[name] = Snap("5", plugs={plug: interface})

    # What the charm's modules reach for.

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        known = ("list_one", "hold", "get", "set", "restart", "start", "remove", "connect")
        for name in known:
            patch.setattr(snaplib, name, getattr(self, f"_{name}"))
        for name in set(snaplib.__all__) - set(known):
            if name[0].islower():
                patch.setattr(snaplib, name, _unknown(f"snap.{name}"))
        patch.setattr(snapd, "_ask", self._ask_snapd)
        patch.setattr(snapd, "run", self._snapd_run)
        patch.setattr(snapd.subprocess, "run", _unknown("subprocess.run"))
        patch.setattr(epa_client.EpaClient, "request", self._daemon_request)
        patch.setattr(sources, "BLOBS", self.blobs)
        patch.setattr(tenants, "FOLDER", self.tenants)
        patch.setattr(ovs_switch, "FILE", self.ovs_switch)
        patch.setattr(daemon.time, "monotonic", lambda: self.now)
        patch.setattr(daemon.time, "sleep", self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _reach(self) -> None:
        if self.snapd_error is not None:
            raise self.snapd_error

    def _change(self, text: str, summary: str = "") -> None:
        """A change, which fails if a test wants it to; `summary` is snapd's own for an install."""
        self._reach()
        self.changes.append(text)
        troubles = {words: trouble() for words, trouble in self.troubles.items()}
        for words, error in (self.failures | troubles).items():
            if words in text and error is not None:
                # What went as far as a change is remembered; what was refused at once is not.
                if str(error).startswith("cannot perform"):
                    self._remember(summary, str(error))
                raise error
        self._remember(summary, "")
        for words, deed in self.deeds.items():
            if words in text:
                deed()

    def _remember(self, summary: str, err: str) -> None:
        number = str(len(self.snapd_changes) + 1)
        change = {"id": number, "kind": "install-snap", "summary": summary, "ready": True}
        done = {"status": "Error", "err": err} if err else {"status": "Done"}
        self.snapd_changes.insert(0, change | done)

    def _find(self, name: str) -> Snap:
        self._reach()
        if name not in self.snaps:
            raise snaplib.NotInstalledError("not installed", kind="", value=name)
        return self.snaps[name]

    def _list_one(self, name: str) -> snaplib.InstalledInfo:
        found = self._find(name)
        return snaplib.InstalledInfo(
            name, False, found.channel, found.revision, found.version, found.hold
        )

    def _hold(self, name: str) -> None:
        self._change(f"hold {name}")
        self._find(name).hold = FOREVER

    def _get(self, name: str) -> dict[str, Any]:
        return self._find(name).options

    def _set(self, name: str, values: dict[str, Any]) -> None:
        self._change(f"set {name} {values}")
        options = self._find(name).options
        for key, value in values.items():
            *sections, last = key.split(".")
            target = options
            for section in sections:
                target = target.setdefault(section, {})
            target[last] = value
        if name == NAME and "cpu-pool" in values:
            self.daemon.general = None if values["cpu-pool"] == "isolated" else values["cpu-pool"]

    def _restart(self, name: str, service: str) -> None:
        self._change(f"restart {name}.{service}")
        self.daemon_dead = self.daemon_dead and not self.cured_by_restart

    def _start(self, name: str, service: str, *, enable: bool) -> None:
        assert enable
        self._change(f"start {name}.{service}")
        self._find(name).active = True
        self.daemon_dead = self.daemon_dead and not self.cured_by_restart

    def _remove(self, name: str) -> None:
        self._change(f"remove {name}")
        del self.snaps[name]

    def _connect(self, plug: tuple[str, str], slot: tuple[str, str] | None = None) -> None:
        target = slot or ("snapd", plug[1])
        self._change(f"connect {plug[0]}:{plug[1]}" + (f" {slot[0]}:{slot[1]}" if slot else ""))
        assert plug[1] in self._find(plug[0]).plugs
        self.connections.add((plug[0], plug[1], target[0], target[1]))

    def _from_store(self, channel: str) -> None:
        full = channel if "/" in channel else f"latest/{channel}"
        if full not in self.store:
            raise api_error("no such channel", "snap-channel-not-available")
        old = self.snaps.get(NAME)
        new = dataclasses.replace(self.store[full], channel=full)
        if old is not None:
            new.hold, new.options = old.hold, old.options
        self.snaps[NAME] = new
        self.daemon.old = new.old
        self.connections.add((NAME, "network-bind", "snapd", "network-bind"))

    def _ask_snapd(self, method: str, path: str, body: str | None = None) -> dict[str, Any]:
        if method == "GET":
            name, _, query = path.partition("?")
            return {"result": self._snapd_get(name, dict(urllib.parse.parse_qsl(query)))}
        self._snapd_change(method, path, json.loads(body or ""))
        return {"change": "77"}

    def _snapd_get(self, path: str, query: dict[str, str]) -> Any:
        self._reach()
        if path == "/v2/changes/77":
            slow = self.slow and self.slow in self.changes[-1]
            return {"status": "Doing" if slow else "Done", "summary": "A slow change"}
        if path == "/v2/changes" and query == {"for": NAME, "select": "all"}:
            return self.snapd_changes
        if path == "/v2/apps" and query == {"names": NAME}:
            active = self._find(NAME).active
            people = [] if self.snap.old else [{"snap": NAME, "name": NAME}]
            service = {"snap": NAME, "name": "daemon", "daemon": "simple", "active": active}
            return [service, *people]
        if path == "/v2/connections" and query == {"select": "all"}:
            every = [(name, plug) for name, found in self.snaps.items() for plug in found.plugs]
            return {"plugs": [self._plug(name, plug) for name, plug in every]}
        raise AssertionError(f"unknown read: {path} {query}")

    def _snapd_change(self, method: str, path: str, content: dict[str, Any]) -> None:
        match method, path.split("/")[3:], content:
            case "PUT", [name, "conf"], _:
                self._set(name, content)
            case "POST", ["epa-orchestrator"], {"action": action, "channel": channel, **more}:
                assert action in ("install", "refresh")
                assert more in ({}, {"amend": True})
                # The store wants --amend to replace a local revision, and to replace no other.
                assert bool(more) == (NAME in self.snaps and self.snap.revision[0] == "x")
                text = f"{action} epa-orchestrator {channel}"
                summary = f'{action.title()} "{NAME}" snap from "{channel}" channel'
                self._change(f"{text} --amend" if more else text, summary)
                self._from_store(channel)
            case _:
                raise AssertionError(f"unknown change: {method} {path} {content}")

    def _plug(self, snap: str, plug: str) -> dict[str, Any]:
        slots = [c for c in self.connections if c[:2] == (snap, plug)]
        entry = {"snap": snap, "plug": plug, "interface": self.snaps[snap].plugs[plug]}
        connections = [{"snap": connection[2], "slot": connection[3]} for connection in slots]
        # snapd leaves the key out where there is none.
        return entry | ({"connections": connections} if connections else {})

    def _snapd_run(self, *arguments: str, seconds: float) -> str:
        match arguments:
            case ("info", path):
                content = pathlib.Path(path).read_bytes()
                if b"name=" not in content:
                    raise snapd.CommandFailed(f'no snap found for "{path}"')
                name = content.partition(b"name=")[2].split()[0].decode()
                return f'path: "{path}"\nname:       {name}\nversion:    1 -\n'
            case ("install", "--dangerous", path):
                if self.slow and self.slow in "install --dangerous":
                    self.now += seconds
                    raise snapd.TooSlow(f"snap install takes more than {seconds:.0f} s")
                text = f"install --dangerous {pathlib.Path(path).name}"
                self._change(text, f'Install "{NAME}" snap from file "epa-orchestrator.snap"')
                self._install_file(pathlib.Path(path))
                return ""
            case ("run", "epa-orchestrator.daemon", "--check", "--format", "json"):
                assert not self.snap.old, "today's daemon would run instead"
                raise snapd.CommandFailed("exit 78", self.check_says)
            case ("run", "epa-orchestrator", "topology"):
                return "the map\n"
            case ("run", "epa-orchestrator", "history", *rest):
                return f"history {' '.join(rest)}\n"
            case ("run", "epa-orchestrator", "ovs"):
                return "the threads\n"
            case _:
                raise AssertionError(f"unknown command: snap {arguments}")

    def _install_file(self, path: pathlib.Path) -> None:
        old = self.snaps.get(NAME)
        number = int(old.revision[1:]) + 1 if old and old.revision[0] == "x" else 1
        new = Snap(f"x{number}", plugs=dict(NEW_PLUGS), channel=old.channel if old else "")
        if old is not None:
            new.hold, new.options = old.hold, old.options
        self.snaps[NAME] = new
        self.daemon.old = False
        (self.blobs / f"{NAME}_x{number}.snap").write_bytes(path.read_bytes())
        self.connections.add((NAME, "network-bind", "snapd", "network-bind"))

    def _daemon_request(self, action: str, **fields: Any) -> dict[str, Any]:
        if self.daemon_dead or NAME not in self.snaps or not self.snap.active:
            raise epa_client.NotRunning("no daemon listens on epa.sock")
        return self.daemon.answer(action, fields)


def _unknown(name: str) -> Any:
    def call(*arguments: object, **named: object) -> NoReturn:
        raise AssertionError(f"unknown call: {name} {arguments} {named}")

    return call
