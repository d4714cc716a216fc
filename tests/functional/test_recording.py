# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""`epa-orchestrator record`: what it saves is the same host again."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests import host_trees
from tests.functional.daemons import Daemon, MakeDaemon
from tests.functional.test_commands import prints, run

SWITCH = "etc/openvswitch/enable_dynamic_cpu_affinity"


def recording_of(daemon: Daemon, folder: Path) -> Path:
    prints(daemon, "record", str(folder), "--root", str(daemon.root))
    return folder


@pytest.mark.parametrize("name", sorted(p.name for p in host_trees.HOSTS.glob("*-*/")))
def test_a_recorded_host_is_the_same_host(name: str, make_daemon: MakeDaemon, tmp_path: Path):
    daemon = make_daemon(host_trees.HOSTS / name, cpu_pool=None).start()
    again = make_daemon(recording_of(daemon, tmp_path / "host"), cpu_pool=None).start()
    for action in ("get_topology", "get_memory_info", "list_allocations"):
        assert again.ask(action) == daemon.ask(action)
    original = {str(p.relative_to(daemon.root)) for p in daemon.root.rglob("*") if p.is_file()}
    recorded = {str(p.relative_to(again.root)) for p in again.root.rglob("*") if p.is_file()}
    assert recorded - original <= {"record.json", *(r for r in recorded if "daemon/" in r)}


def test_it_saves_what_the_daemon_says_and_the_switch(daemon: Daemon, tmp_path: Path):
    daemon.ask("allocate_cores", service_name="nova", num_of_cores=2)
    host_trees.write(daemon.root / SWITCH, "yes")
    folder = recording_of(daemon, tmp_path / "host")
    said = {path.stem: json.loads(path.read_text()) for path in (folder / "daemon").iterdir()}
    assert said["list-isolated"] == daemon.listing()
    assert said["list-general"] == daemon.listing(pool="general")
    assert said["hugepages"] == daemon.ask("get_memory_info")
    assert said["topology"] == daemon.ask("get_topology")
    assert said["health"]["options"]["cpu_pool"] == "0-1,8-9"
    assert (folder / SWITCH).read_text() == "yes\n"
    assert json.loads((folder / "record.json").read_text())["not_read"] == {}


def test_without_a_daemon_it_records_the_host_and_says_so(daemon: Daemon, tmp_path: Path):
    daemon.stop()
    (daemon.root / SWITCH).mkdir(parents=True)
    done = run(daemon, "record", str(tmp_path / "host"), "--root", str(daemon.root))
    assert done.returncode == 0
    assert f"- not read: {SWITCH}: Is a directory\n" in done.stdout
    assert f"- not read: daemon/health.json: no daemon listens on {daemon.socket_path}\n" in (
        done.stdout
    )
    assert (tmp_path / "host/sys/devices/system/cpu/isolated").read_text() == "2-7,10-15\n"


def test_it_can_be_an_archive_to_standard_output(daemon: Daemon):
    command = [sys.executable, "-m", "epa_daemon", "record", "-", "--root", str(daemon.root)]
    command += ["--socket", str(daemon.socket_path)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=30)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        isolated = archive.extractfile("host/sys/devices/system/cpu/isolated")
        assert isolated is not None
        assert isolated.read() == b"2-7,10-15\n"
        assert "host/daemon/health.json" in archive.getnames()
    assert b"recorded" in done.stderr


def test_what_is_there_is_not_overwritten(daemon: Daemon, tmp_path: Path):
    (tmp_path / "mine").write_text("mine")
    for there in (tmp_path, tmp_path / "mine", tmp_path / "no/such/parent"):
        before = os.listdir(tmp_path)
        done = run(daemon, "record", str(there))
        assert done.returncode == 78
        assert f"cannot record into {there}" in done.stderr
        assert os.listdir(tmp_path) == before


def test_it_needs_nothing_but_python(tmp_path: Path):
    """So that a host can be recorded on which nothing is installed."""
    program = (
        "import sys; sys.modules['pydantic'] = None; from epa_daemon import cli; "
        f"sys.exit(cli.main(['record', {str(tmp_path / 'host')!r}, '--root', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
