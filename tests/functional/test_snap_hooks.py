# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The snap's hooks, with a snapctl that only knows what they may call."""

import dataclasses
import functools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from charms.epa_orchestrator.v0 import epa_client

from epa_daemon import options, snap_hooks, state_folder
from epa_daemon.options import OptionsFile
from epa_daemon.settings import Settings
from tests import host_trees
from tests.functional.daemons import Daemon, MakeDaemon

SNAPCTL = """#!{python}
import json, sys
from pathlib import Path
file = Path({file!r})
stored = json.loads(file.read_text())
match sys.argv[1:]:
    case ["get", "-d", *keys]:
        print(json.dumps({{key: stored[key] for key in keys if key in stored}}))
    case ["set", pair]:
        key, _, value = pair.partition("=")
        group, _, name = key.partition(".")
        stored.setdefault(group, {{}})[name] = json.loads(value)
        file.write_text(json.dumps(stored))
    case ["unset", "takeover.prefer"]:
        del stored["takeover"]["prefer"]
        file.write_text(json.dumps(stored))
    case ["services"]:
        print("Service  Startup  Current  Notes")
        print("e.daemon  enabled  " + stored["service"] + "  -")
    case _:
        sys.exit("unknown call")
"""


@dataclasses.dataclass
class Snap:
    """The folders and options of an installed snap, and the daemon that runs in it."""

    folder: Path
    daemon: Daemon
    said: pytest.CaptureFixture[str]
    script: Path

    def set(self, **options: Any) -> None:
        content = {name.replace("_", "-"): value for name, value in options.items()}
        (self.folder / "options").write_text(json.dumps(self.stored | content))

    @property
    def stored(self) -> dict[str, Any]:
        return json.loads((self.folder / "options").read_text())

    @property
    def accepted(self) -> object:
        return self.stored.get("internal", {}).get("validated-cpu-pool")

    @property
    def here(self) -> Settings:
        daemon = self.daemon
        return Settings(daemon.root, daemon.data, daemon.state, self.options)

    @property
    def options(self) -> OptionsFile:
        return OptionsFile(self.folder / "options.json")

    def run(self, hook: str) -> int:
        return snap_hooks.run(getattr(snap_hooks, hook.replace("-", "_")), self.here)

    def configure(self, **options: Any) -> None:
        self.set(**options)
        assert self.run("configure") == 0

    def refusal(self, hook: str = "configure", **options: Any) -> str:
        """What the hook says; afterwards all is as before, as snapd undoes the change."""
        before, kept = self.stored, self.options.kept()
        self.set(**options)
        self.said.readouterr()
        assert self.run(hook) == 1
        (self.folder / "options").write_text(json.dumps(before))
        assert self.options.kept() == kept
        assert not (self.folder / "options.json.new").exists()
        said = self.said.readouterr()
        assert said.out == ""
        return said.err.rstrip("\n")


@pytest.fixture
def snap(
    make_daemon: MakeDaemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Snap:
    """A snap on the recorded host, CPUs 2-7 and 10-15 isolated; its daemon does not run yet."""
    daemon = make_daemon(cpu_pool=None)
    daemon.arguments = ("--options-file", str(daemon.folder / "options.json"))
    (daemon.folder / "options").write_text('{"service": "inactive"}')
    script = tmp_path / "snapctl"
    script.write_text(SNAPCTL.format(python=sys.executable, file=str(daemon.folder / "options")))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return Snap(daemon.folder, daemon, capsys, script)


@pytest.fixture(params=["stopped", "running"])
def either(request: pytest.FixtureRequest, snap: Snap) -> Snap:
    """The daemon is judge where it runs; where it does not, its stored state is."""
    if request.param == "running":
        snap.daemon.start()
        snap.set(service="active")
    return snap


POOL_REFUSALS = [
    ("2-1", "Invalid cpu-pool descending range: '2-1'"),
    ("1,,2", "Invalid cpu-pool CPU list component: ''"),
    ("x", "Invalid cpu-pool CPU list component: 'x'"),
    ("-1", "Invalid cpu-pool CPU list component: '-1'"),
    (-1, "Invalid cpu-pool CPU list component: '-1'"),
    ("0-1:2", "Invalid cpu-pool CPU list component: '0-1:2'"),
    ("70000", "cpu-pool CPU ID exceeds 65535: '70000'"),
    ("0-99", "cpu-pool range is outside present CPU topology: '0-99'"),
    ("99", "cpu-pool includes CPUs not present: '99'"),
    ("1-3", "General cpu-pool overlaps isolated CPUs: 2-3"),
    (True, "cpu-pool must be 'isolated' or a CPU list"),
    ("", "Invalid cpu-pool CPU list component: ''"),
    (1.5, "cpu-pool must be 'isolated' or a CPU list"),
    ([1], "cpu-pool must be 'isolated' or a CPU list"),
    ({"a": 1}, "cpu-pool must be 'isolated' or a CPU list"),
]


@pytest.mark.parametrize(("value", "reason"), POOL_REFUSALS)
def test_a_bad_pool_is_refused_with_its_reason(either: Snap, value: object, reason: str):
    assert either.refusal(cpu_pool=value) == f"Invalid cpu-pool configuration: {reason}"


@pytest.mark.parametrize("option", options.POLICY_LIMITS)
@pytest.mark.parametrize("value", [-1, 65537, 8.5, True, "many", "", [], {}])
def test_a_bad_policy_number_is_refused_with_its_limits(snap: Snap, option: str, value: object):
    least, most = options.POLICY_LIMITS[option]
    shown = value if isinstance(value, str) else json.dumps(value)
    assert snap.refusal(policy={option.removeprefix("policy."): value}) == (
        f"Invalid {option}: '{shown}' is not a whole number from {least} to {most}"
    )


def test_an_unknown_policy_option_is_refused_with_those_that_there_are(snap: Snap):
    text = snap.refusal(policy={"small-system-precent": 50})
    assert "Invalid policy.small-system-precent: there is no such option" in text
    assert "policy.small-system-percent" in text


@pytest.mark.parametrize(
    ("group", "text"),
    [
        ({"access": {"uids": "root"}}, "Invalid access.uids: 'root' is not a list of numbers"),
        ({"access": {"gids": -1}}, "Invalid access.gids: '-1' is not a list of numbers"),
        ({"access": {"uid": 1}}, "Invalid access.uid: there is no such option; there are access."),
        ({"policy": {"owners": "uid"}}, 'Invalid policy.owners: "uid" is not snap'),
        ({"policy": {"owners": True}}, "Invalid policy.owners: true is not snap"),
    ],
)
def test_bad_access_is_refused_and_names_what_there_is(
    either: Snap, group: dict[str, Any], text: str
):
    assert either.refusal(**group).startswith(text)


def test_access_holds_at_once_and_after_a_restart_and_goes_when_it_is_unset(either: Snap):
    either.configure(access={"uids": 1000, "gids": "2001,2000"}, policy={"owners": "snap"})
    if either.daemon.process is None:
        either.daemon.start()
    for _ in range(2):
        options = either.daemon.ask("get_health")["options"]
        assert options["access_uids"] == [1000]
        assert options["access_gids"] == [2000, 2001]
        assert options["owners"] == "snap"
        either.daemon.restart()
    either.set(service="active")
    either.configure(access={}, policy={})
    options = either.daemon.ask("get_health")["options"]
    assert (options["access_uids"], options["access_gids"], options["owners"]) == ([], [], None)


@pytest.mark.parametrize("group", ["policy", "internal", "access"])
def test_a_group_that_is_no_group_is_refused_with_the_way_back(snap: Snap, group: str):
    changed: dict[str, Any] = {group: 5}
    text = snap.refusal(**changed)
    assert text.startswith(f"Invalid {group}: '5' is not a group of options")
    assert f"snap unset epa-orchestrator {group}" in text


def test_a_good_pool_takes_effect_at_once_and_is_there_after_a_restart(either: Snap):
    either.configure(cpu_pool="8-9, 0-1", policy={"small-system-percent": "50"})
    assert either.accepted == "0-1,8-9"
    if either.daemon.process is None:
        either.daemon.start()
    for _ in range(2):
        assert either.daemon.listing(pool="general")["cpu_pool"]["configured_cpus"] == "0-1,8-9"
        reply = either.daemon.ask("allocate_cores", service_name="a", pool="general")
        assert reply["cores_allocated"] == 2
        either.daemon.restart()


def test_connections_stay_open_and_grants_stay_as_they_are(snap: Snap):
    snap.daemon.start()
    snap.daemon.ask("allocate_cores", service_name="a", num_of_cores=2)
    with snap.daemon.connect() as kept:
        kept.sendall(b'{"action":"list_allocations","keep_alive":true}')
        assert kept.recv(65536).endswith(b"\n")
        snap.configure(cpu_pool=9)
        kept.sendall(b'{"action":"list_allocations","pool":"general"}\n')
        assert json.loads(kept.recv(65536))["cpu_pool"]["configured_cpus"] == "9"
    assert snap.daemon.owners() == {"a": "2-3"}


def test_a_pool_cannot_leave_its_owners_outside(either: Snap):
    daemon = either.daemon
    either.configure(cpu_pool="0-1,8-9")
    if daemon.process is None:
        daemon.start()
        daemon.ask("allocate_cores", service_name="a", num_of_cores=2, pool="general")
        daemon.stop()
    else:
        daemon.ask("allocate_cores", service_name="a", num_of_cores=2, pool="general")
    assert either.refusal(cpu_pool="8-9") == (
        "Invalid cpu-pool configuration: cpu-pool excludes allocated CPUs: 0-1; "
        "release or migrate these allocations before changing the pool"
    )
    assert either.refusal(cpu_pool=None) == (
        "Invalid cpu-pool configuration: CPU pool general is not configured"
    )
    either.configure(cpu_pool="0-1")
    assert either.accepted == "0-1"


def test_an_accepted_pool_is_not_judged_again_when_the_host_has_changed(either: Snap):
    either.configure(cpu_pool="0-1")
    host_trees.write(either.daemon.root / "sys/devices/system/cpu/isolated", "1-7\n")
    either.configure(policy={"large-system-reserved": 0})
    assert either.refusal(cpu_pool="0-1,8") == (
        "Invalid cpu-pool configuration: General cpu-pool overlaps isolated CPUs: 1"
    )


def test_a_mark_that_somebody_else_wrote_is_put_right(either: Snap):
    either.configure(cpu_pool="0", internal={"validated-cpu-pool": [1]})
    assert either.accepted == "0"
    either.configure(cpu_pool=None)
    assert either.accepted == "isolated"


def test_a_daemon_that_hangs_in_its_start_is_waited_for(
    snap: Snap, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(snap_hooks, "_STARTING_SECONDS", 0.3)
    held = state_folder.lock(snap.daemon.state)
    assert "does not listen" in snap.refusal(cpu_pool="0")
    os.close(held)
    snap.configure(cpu_pool="0")


def test_a_refresh_starts_with_the_pool_that_was_accepted_last(snap: Snap):
    snap.set(cpu_pool="8", internal={"validated-cpu-pool": "0-1"})
    assert snap.run("post-refresh") == 0
    assert snap.options.kept().cpu_pool == "0-1"
    snap.daemon.start()
    assert snap.daemon.listing(pool="general")["cpu_pool"]["configured_cpus"] == "0-1"


@pytest.mark.parametrize("content", ["{", "[]", '{"allocations_db": 5}'])
def test_a_refresh_to_a_state_that_cannot_be_understood_is_undone(snap: Snap, content: str):
    snap.daemon.data.mkdir()
    old = snap.daemon.data / "state.json"
    old.write_text(content)
    assert snap.run("post-refresh") == 1
    said = snap.said.readouterr().err
    assert said.startswith("this revision cannot take over: ")
    assert "state.json" in said
    assert old.read_text() == content
    assert not snap.daemon.state.exists()


def test_a_pool_that_the_host_has_outgrown_does_not_hold_up_a_refresh(snap: Snap):
    snap.set(internal={"validated-cpu-pool": "1-2"})
    assert snap.run("post-refresh") == 0
    assert "General cpu-pool overlaps isolated CPUs: 2" in snap.said.readouterr().err


def test_options_that_cannot_be_read_stop_the_start_and_say_how_to_write_them_anew(snap: Snap):
    (snap.folder / "options.json").write_text("{}")
    done = snap.daemon.run()
    assert done.returncode == 78
    assert "options.json cannot be used" in done.stderr
    assert "snap set epa-orchestrator" in done.stderr
    snap.configure(cpu_pool="0")
    snap.daemon.start()
    assert snap.daemon.listing(pool="general")["cpu_pool"]["configured_cpus"] == "0"


def test_a_daemon_that_starts_in_the_middle_gets_the_options_too(
    snap: Snap, monkeypatch: pytest.MonkeyPatch
):
    keep = OptionsFile.keep

    def keep_late(file: OptionsFile, options: options.Options) -> None:
        snap.daemon.start()
        keep(file, options)

    monkeypatch.setattr(OptionsFile, "keep", keep_late)
    snap.configure(cpu_pool="0-1")
    assert snap.daemon.listing(pool="general")["cpu_pool"]["configured_cpus"] == "0-1"


def test_a_change_that_was_undone_does_not_come_later(snap: Snap, monkeypatch: pytest.MonkeyPatch):
    """The daemon hangs, the hook gives up, the daemon goes on with the request in its socket."""
    snap.daemon.start()
    client = functools.partial(epa_client.EpaClient, timeout=1)
    monkeypatch.setattr(epa_client, "EpaClient", client)
    os.kill(snap.daemon.pid, signal.SIGSTOP)
    assert "no reply" in snap.refusal(cpu_pool="0-1")
    os.kill(snap.daemon.pid, signal.SIGCONT)
    assert snap.daemon.listing(pool="general")["code"] == "pool-not-configured"
    assert snap.daemon.ask("reload")["options"]["cpu_pool"] == "isolated"


@pytest.mark.parametrize("failing", ["set", "services"])
def test_what_fails_after_the_daemon_has_agreed_brings_it_back(either: Snap, failing: str):
    script = either.script.read_text()
    either.configure(cpu_pool="8-9")
    either.script.write_text(script.replace(f'["{failing}"', '["never"'))
    assert f"snapctl {failing}" in either.refusal(cpu_pool="0-1")
    if either.daemon.process is None:
        either.daemon.start()
    assert either.daemon.listing(pool="general")["cpu_pool"]["configured_cpus"] == "8-9"


def test_the_hook_ends_when_the_daemon_answers(snap: Snap, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(snap_hooks, "_STARTING_SECONDS", 5)
    snap.set(service="active")
    snap.daemon.launch()
    snap.configure(cpu_pool="0-1")
    assert snap.daemon.listing(pool="general")["cpu_pool"]["configured_cpus"] == "0-1"


def test_a_service_that_never_answers_fails_the_change(
    snap: Snap, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(snap_hooks, "_STARTING_SECONDS", 0.3)
    snap.set(service="active")
    assert snap.run("configure") == 1
    assert "does not listen" in snap.said.readouterr().err


def test_an_operator_says_whose_word_counts_and_only_once(snap: Snap):
    snap.daemon.start()
    snap.daemon.ask("allocate_cores", service_name="new", num_of_cores=2)
    snap.daemon.stop()
    old = snap.daemon.data / "state.json"
    old.write_text('{"allocations_db": {"allocations": {"old": "2"}}}')
    said = snap.refusal("post-refresh")
    assert "CPU 2 is held by old there and by new here" in said
    assert "snap set epa-orchestrator takeover.prefer=old" in said
    assert "is not old or new" in snap.refusal("post-refresh", takeover={"prefer": "older"})
    snap.set(takeover={"prefer": "old"})
    assert snap.run("post-refresh") == 0
    snap.daemon.start()
    assert snap.daemon.owners() == {"new": "3", "old": "2"}
    snap.configure()
    assert snap.stored["takeover"] == {}
    assert snap.options.kept().takeover_prefer is None
