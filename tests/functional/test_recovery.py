# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""backup, restore, verify and repair."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from epa_daemon import backups, listener
from epa_daemon.errors import EpaError
from epa_daemon.holder import HolderClient
from tests import host_trees
from tests.functional.daemons import Daemon, MakeDaemon
from tests.functional.test_peers import NOBODY, as_user, needs_root

Done = subprocess.CompletedProcess[bytes]


def run(daemon: Daemon, name: str, *arguments: str, stdin: bytes = b"") -> Done:
    command = [sys.executable, "-m", "epa_daemon", name, "--data", str(daemon.data)]
    command += ["--state", str(daemon.state), *arguments]
    if name == "verify":
        command += ["--root", str(daemon.root)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60, input=stdin)


def does(daemon: Daemon, name: str, *arguments: str) -> str:
    done = run(daemon, name, *arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def fails(daemon: Daemon, name: str, *arguments: str, code: int = 1) -> str:
    done = run(daemon, name, *arguments)
    assert done.returncode == code, (done.stdout, done.stderr)
    text = (done.stderr if name != "verify" else done.stdout).decode()
    assert "Traceback" not in done.stderr.decode()
    return text


@pytest.fixture
def daemon(make_daemon: MakeDaemon) -> Daemon:
    """Isolated CPUs 2-7 and 10-15; `a` holds 2-3 and pages, `b` holds 10 of node 1."""
    daemon = make_daemon().start()
    daemon.ask("allocate_cores", service_name="a", num_of_cores=2)
    daemon.ask(
        "allocate_hugepages", service_name="a", hugepages_requested=4, node_id=0, size_kb=2048
    )
    daemon.ask("allocate_numa_cores", service_name="b", numa_node=1, num_of_cores=1)
    return daemon


@pytest.fixture(params=["running", "stopped"])
def either(request: pytest.FixtureRequest, daemon: Daemon) -> Daemon:
    if request.param == "stopped":
        daemon.stop()
    return daemon


def contents(state: Path) -> dict[Path, bytes]:
    """Of all but the lock, in which everybody who takes it writes their number."""
    return {path: path.read_bytes() for path in state.iterdir() if path.name != "lock"}


HELD = {"a": "2-3", "b": "10"}


@pytest.fixture
def saved(daemon: Daemon) -> str:
    """A backup of what `daemon` holds; it is stopped."""
    file = str(daemon.folder / "saved")
    does(daemon, "backup", file)
    daemon.stop()
    return file


def test_a_backup_brings_everything_back_where_the_state_is_lost(either: Daemon):
    file = either.folder / "saved"
    assert does(either, "backup", str(file)) == f"saved {file.stat().st_size} bytes in {file}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    history = either.process and either.ask("get_history")["events"]
    either.kill()
    shutil.rmtree(either.state)
    assert does(either, "restore", str(file)) == "restored: 2 services hold something\n"
    assert sorted(path.name for path in either.state.iterdir()) == ["ledger.db", "lock"]
    either.start()
    assert either.owners() == HELD
    assert either.ask("get_memory_info")["numa_hugepages"]["node0"]["allocations"] == {
        "a": {"2048": 4}
    }
    if history:
        assert either.ask("get_history")["events"] == history


def test_a_backup_goes_to_standard_output_and_comes_from_standard_input(daemon: Daemon):
    copied = run(daemon, "backup", "-")
    assert copied.returncode == 0
    daemon.stop()
    shutil.rmtree(daemon.state)
    assert run(daemon, "restore", "-", stdin=copied.stdout).returncode == 0
    assert daemon.start().owners() == HELD


def test_a_backup_while_clients_are_served_is_consistent_and_delays_nothing_for_good(
    daemon: Daemon,
):
    file = daemon.folder / "saved"
    command = [sys.executable, "-m", "epa_daemon", "backup", str(file)]
    command += ["--data", str(daemon.data), "--state", str(daemon.state)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as other:
        count = 0
        while other.poll() is None:
            count += 1
            reply = daemon.ask("allocate_cores", service_name="c", num_of_cores=1 + count % 2)
            assert "error" not in reply
        assert other.returncode == 0
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (last,) = connection.execute(
            "SELECT after FROM events WHERE service = 'c' ORDER BY id DESC LIMIT 1"
        ).fetchone() or ("",)
        held = connection.execute("SELECT cpu FROM claims WHERE service = 'c'").fetchall()
    assert len(held) == {"": 0, "4": 1, "4-5": 2}[last]


def test_a_backup_never_overwrites_nor_follows_a_link(either: Daemon):
    there, link = either.folder / "there", either.folder / "link"
    there.write_text("mine")
    link.symlink_to(either.folder / "elsewhere")
    for file in (there, link, either.folder, either.folder / "no" / "folder"):
        assert "no backup was written" in fails(either, "backup", str(file))
    assert there.read_text() == "mine"
    assert not (either.folder / "elsewhere").exists()
    assert sorted(path.name for path in either.folder.iterdir()) == [
        *("data", "link", "log", "root", "state", "there")
    ]


def test_a_daemon_that_is_asked_for_nothing_else_keeps_running_when_a_backup_fails(
    daemon: Daemon,
):
    (daemon.state / "backup.db.new").mkdir()
    assert "Failed to make a backup" in fails(daemon, "backup", str(daemon.folder / "saved"))
    assert not (daemon.folder / "saved").exists()
    assert daemon.owners() == HELD


def test_a_restore_while_a_daemon_runs_is_refused(daemon: Daemon):
    file = str(daemon.folder / "saved")
    does(daemon, "backup", file)
    assert f"another daemon (pid {daemon.pid})" in fails(daemon, "restore", file, code=78)
    assert daemon.owners() == HELD


def test_live_claims_are_not_contradicted_unless_told(daemon: Daemon, saved: str):
    daemon.start()
    daemon.ask("allocate_cores", service_name="a", num_of_cores=-1)
    daemon.ask("allocate_cores", service_name="c", num_of_cores=3)
    daemon.ask(
        "allocate_hugepages", service_name="a", hugepages_requested=9, node_id=0, size_kb=2048
    )
    daemon.stop()
    before = (daemon.state / "ledger.db").read_bytes()
    text = fails(daemon, "restore", saved)
    assert "'c' holds CPUs 2-4 now; 'a' has 9 hugepages of 2048 kB on node 0 now" in text
    assert "--discard-claims" in text
    assert (daemon.state / "ledger.db").read_bytes() == before
    assert sorted(path.name for path in daemon.state.iterdir()) == [
        "acknowledged", "backup.db", "ledger.db", "lock",
    ]  # fmt: skip
    shown = does(daemon, "restore", saved, "--discard-claims")
    assert "- forgotten: 'c' holds CPUs 2-4 now\n" in shown
    (kept,) = daemon.state.glob("ledger.db.replaced-*")
    assert str(kept) in shown
    assert kept.read_bytes() == before
    daemon.start()
    assert daemon.owners() == HELD
    events = daemon.ask("get_history")["events"][:3]
    assert {(e["action"], e["service_name"], e["got"], e["lost"]) for e in events} == {
        ("restore", "c", "", "2-4"),
        ("restore", "a", "2-3", ""),
        ("restore", "a", "", "5"),
    }


def test_a_store_that_cannot_be_compared_needs_the_word_of_the_operator(
    daemon: Daemon, saved: str
):
    path = daemon.state / "ledger.db"
    path.write_bytes(b"\xff" * 9000)
    text = fails(daemon, "restore", saved)
    assert "cannot be compared with the backup" in text
    assert path.read_bytes() == b"\xff" * 9000
    assert "was not compared" in does(daemon, "restore", saved, "--discard-claims")
    assert daemon.start().owners() == HELD


@pytest.mark.parametrize("damage", ["empty", "text", "torn", "newer", "other", "claimless"])
def test_what_is_no_sound_backup_is_refused_and_nothing_is_touched(
    daemon: Daemon, saved: str, damage: str
):
    file = Path(saved)
    content = file.read_bytes()
    if damage in ("empty", "text", "torn"):
        file.write_bytes({"empty": b"", "text": b"x" * 9000, "torn": content[:20000]}[damage])
    else:
        statement = {
            "newer": "PRAGMA user_version = 99",
            "other": "PRAGMA application_id = 7",
            "claimless": "DELETE FROM claims",
        }[damage]
        with sqlite3.connect(file) as connection:
            connection.execute(statement)
    before = contents(daemon.state)
    assert f"cannot restore {file}: " in fails(daemon, "restore", saved, "--discard-claims")
    assert contents(daemon.state) == before
    assert daemon.start().owners() == HELD


def test_verify_of_a_sound_store(either: Daemon):
    running = either.process is not None
    text = does(either, "verify")
    assert text.startswith("sound: the store in ")
    assert f"(daemon {'running' if running else 'stopped'}): 2 services hold 3 CPUs" in text
    report = json.loads(does(either, "verify", "--format", "json"))
    assert report["sound"] is True
    assert report["daemon"] == ("running" if running else "stopped")
    assert report["problems"] == []


def test_verify_sees_the_host_against_the_ledger(either: Daemon):
    host_trees.write(either.root / "sys/devices/system/cpu/online", "0-2,4-15")
    assert "- a holds 3, which are offline [claims-offline]" in fails(either, "verify")


def test_verify_sees_a_store_that_was_removed_or_changed_under_the_daemon(daemon: Daemon):
    path = daemon.state / "ledger.db"
    path.rename(daemon.state / "gone")
    text = fails(daemon, "verify")
    assert "was removed or replaced under the daemon" in text
    saved = daemon.folder / "saved"
    # What it said to do: everything is in the copy.
    done = run(daemon, "backup", str(saved))
    assert done.returncode == 0, done.stderr
    daemon.kill()
    shutil.rmtree(daemon.state)
    does(daemon, "restore", str(saved))
    assert daemon.start().owners() == HELD


@pytest.mark.parametrize("way", ["gone", "replaced"])
def test_a_daemon_whose_state_folder_is_gone_is_saved_from(daemon: Daemon, way: str):
    shutil.rmtree(daemon.state)
    if way == "replaced":
        daemon.state.mkdir(mode=0o700)
        (daemon.state / "lock").write_text("1\n")
    report = json.loads(fails(daemon, "verify", "--format", "json"))
    assert report["daemon"] == "running"
    assert "was removed or replaced under the daemon" in report["problems"][0]["text"]
    saved = daemon.folder / "saved"
    does(daemon, "backup", str(saved))
    assert stat.S_IMODE(daemon.state.stat().st_mode) == 0o700
    assert "removed or replaced" in fails(daemon, "verify")
    assert daemon.ask("allocate_cores", service_name="x", num_of_cores=1)["code"] == "store-failed"
    text = fails(daemon, "restore", str(saved), code=78)
    assert f"a daemon (pid {daemon.pid}) runs whose state folder" in text
    daemon.kill()
    if way == "gone":
        assert "is missing although changes were acknowledged" in daemon.run().stderr
    does(daemon, "restore", str(saved))
    assert daemon.start().owners() == HELD


@pytest.mark.parametrize("way", ["gone", "empty", "replaced"])
def test_nothing_is_begun_beside_a_daemon_whose_state_folder_is_gone(daemon: Daemon, way: str):
    """A store that is made or changed there would take the place of what the daemon knows."""
    if way == "replaced":
        shutil.copytree(daemon.state, daemon.folder / "aside")
    shutil.rmtree(daemon.state)
    if way == "empty":
        daemon.state.mkdir(mode=0o700)
    elif way == "replaced":
        (daemon.folder / "aside").rename(daemon.state)
    there = contents(daemon.state) if daemon.state.exists() else None
    text = f"a daemon (pid {daemon.pid}) runs whose state folder"
    for arguments in (["repair", "--release", '"a\\u0000"'], ["takeover", "--prefer", "new"]):
        assert text in fails(daemon, *arguments, code=78)
    for arguments in ([], ["--check"]):
        done = daemon.run(*arguments)
        assert done.returncode == 78
        assert text in done.stdout + done.stderr
    assert (contents(daemon.state) if daemon.state.exists() else None) == there
    assert daemon.owners() == HELD
    if way != "replaced":
        does(daemon, "backup", str(daemon.folder / "saved"))
        daemon.kill()
        assert "is missing although changes were acknowledged" in daemon.run().stderr


def test_nothing_is_begun_beside_a_daemon_that_hangs_and_has_lost_its_folder(
    daemon: Daemon,
):
    """Who listens and does not answer may be a daemon that knows what the folder had."""
    assert daemon.process is not None
    shutil.rmtree(daemon.state)
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        done = daemon.run()
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    assert done.returncode == 78
    assert f"a daemon (pid {daemon.pid}) listens on" in done.stderr
    assert "does not answer" in done.stderr
    assert not daemon.state.exists()
    assert daemon.owners() == HELD


DRIP = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print(flush=True)
while True:
    connection = listener.accept()[0]
    try:
        for piece in sys.argv[2:]:
            connection.sendall(piece.encode())
            time.sleep(float(len(sys.argv) > 3))
    except OSError:
        pass
    connection.close()
"""


@contextlib.contextmanager
def saying(path: Path, *pieces: str) -> Generator[None]:
    """Somebody at a socket who says this to whoever comes, a piece a second."""
    command = [sys.executable, "-c", DRIP, str(path), *pieces]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("pieces", [['{"state":', *" " * 60], ['{"state":5}'], ["[]"], [""]])
def test_who_else_is_at_the_socket_neither_hangs_nor_breaks_a_start(
    make_daemon: MakeDaemon, pieces: list[str]
):
    daemon = make_daemon()
    daemon.data.mkdir(exist_ok=True)
    with saying(daemon.socket_path, *pieces):
        done = daemon.run()
    assert done.returncode == 78
    assert "Traceback" not in done.stderr
    assert str(daemon.socket_path) in done.stderr


def test_verify_of_a_damaged_a_missing_and_a_newer_store(daemon: Daemon):
    daemon.stop()
    path = daemon.state / "ledger.db"
    content = path.read_bytes()
    path.write_bytes(content[:12000])
    assert "[store-unusable]" in fails(daemon, "verify")
    assert "cannot be used" in fails(daemon, "backup", str(daemon.folder / "saved"), code=78)
    advice = f"move the whole state folder {daemon.state} away"
    assert advice in fails(daemon, "verify")
    path.unlink()
    text = fails(daemon, "verify")
    assert "is missing although changes were acknowledged" in text
    assert advice in text
    assert advice in fails(daemon, "backup", str(daemon.folder / "saved"), code=78)
    assert advice in daemon.run().stderr
    # Which helps.
    aside = daemon.state.rename(daemon.folder / "aside")
    assert "there is no store in" in fails(daemon, "verify")
    assert "there is no store in" in fails(daemon, "backup", str(daemon.folder / "saved"))
    assert daemon.start().owners() == {}
    daemon.stop()
    shutil.rmtree(daemon.state)
    aside.rename(daemon.state)
    path.write_bytes(content)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "written by a newer daemon" in fails(daemon, "verify")
    assert not (daemon.folder / "saved").exists()


def test_verify_finds_a_damaged_index(daemon: Daemon):
    """Which a quick check does not."""
    daemon.stop()
    path = daemon.state / "ledger.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE INDEX extra ON events (at)")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_schema SET sql = replace(sql, '(at)', '(service)')")
    assert "missing from index extra" in fails(daemon, "verify")


def test_a_daemon_that_hangs_is_not_taken_for_a_sound_one(daemon: Daemon):
    daemon.socket_path.unlink()
    for name in ("verify", "backup"):
        done = run(daemon, name, *([] if name == "verify" else [str(daemon.folder / "x")]))
        assert done.returncode == 69
        assert b"no daemon listens on" in done.stderr


def test_who_answers_in_the_daemons_place_is_found_out(daemon: Daemon):
    daemon.socket_path.unlink()
    with socket.socket(socket.AF_UNIX) as impostor:
        impostor.bind(str(daemon.socket_path))
        impostor.listen()
        text = fails(daemon, "verify")
        assert f"pid {os.getpid()} listens on {daemon.socket_path}, and not the daemon" in text
        assert "[foreign-socket]" in text
        text = fails(daemon, "backup", str(daemon.folder / "saved"))
        assert "somebody has put a socket in its place" in text
    assert not (daemon.folder / "saved").exists()


NAMES = ["", "a\u0000b", "x" * 129, "bell\a"]


def test_who_takes_the_daemons_place_between_two_connections_is_found_out(daemon: Daemon):
    client = HolderClient(daemon.socket_path, daemon.pid)
    assert client.request("verify")["problems"] == []
    daemon.socket_path.rename(daemon.data / "aside")
    with socket.socket(socket.AF_UNIX) as impostor:
        impostor.bind(str(daemon.socket_path))
        impostor.listen()
        with pytest.raises(listener.Impostor, match=f"not the daemon, pid {daemon.pid}"):
            client.request("backup")
        with impostor.accept()[0] as connection:
            assert connection.recv(100) == b"", "nothing is sent to it"


def test_an_old_copy_is_not_taken_for_a_backup(daemon: Daemon, monkeypatch: pytest.MonkeyPatch):
    daemon.ask("backup")
    daemon.ask("allocate_cores", service_name="a", num_of_cores=3)
    monkeypatch.setattr(HolderClient, "request", str)

    file = daemon.folder / "saved"
    with pytest.raises(EpaError, match="older than what was acknowledged"):
        backups.write(daemon.state, daemon.socket_path, str(file))
    assert not file.exists()


def test_names_that_requests_cannot_carry_are_found_and_released(make_daemon: MakeDaemon):
    daemon = make_daemon()
    daemon.data.mkdir()
    cpus = dict(zip([*NAMES, "good"], ("2", "3", "4", "5", "6"), strict=True))
    pages = {NAMES[1]: [{"node_id": 0, "size_kb": 2048, "count": 2}]}
    content = {"allocations_db": {"allocations": cpus}, "hugepages_db": {"allocations": pages}}
    (daemon.data / "state.json").write_text(json.dumps(content))
    daemon.start()
    assert len(daemon.owners()) == 5
    found = json.loads(fails(daemon, "verify", "--format", "json"))["problems"]
    assert [problem["code"] for problem in found] == ["unusable-name"] * 4
    quoted = json.dumps(NAMES[1])
    assert f"epa-orchestrator repair --release '{quoted}'" in "\n".join(p["text"] for p in found)
    fails(daemon, "repair", "--release", quoted, code=78)
    daemon.stop()
    for wrong, why in (
        ('"good"', "is released by the running daemon"),
        ('"nobody"', "holds nothing"),
        ("bell", "is not a JSON text"),
        ("7", "is not a JSON text"),
    ):
        assert why in fails(daemon, "repair", "--release", wrong)
    for name in NAMES:
        does(daemon, "repair", "--release", json.dumps(name))
    assert does(daemon, "verify").startswith("sound: ")
    daemon.start()
    assert daemon.owners() == {"good": "6"}
    assert daemon.ask("get_memory_info")["numa_hugepages"]["node0"]["allocations"] == {}
    actions = {event["action"] for event in daemon.ask("get_history", service_name="")["events"]}
    assert actions == {"import", "learn-nodes", "repair"}


@needs_root
@pytest.mark.parametrize("name", ["backup", "restore", "verify", "repair"])
def test_another_user_is_told_so(either: Daemon, name: str):
    arguments = {"repair": ["--release", '""'], "verify": []}.get(name, ["/tmp/never-made"])
    folders = ["--data", str(either.data), "--state", str(either.state)]
    done = subprocess.run(
        as_user(NOBODY, name, *folders, *arguments), capture_output=True, text=True, check=False
    )
    assert done.returncode == 77
    assert "try again as root" in done.stderr
    assert not os.path.exists("/tmp/never-made")


def of_nobody(daemon: Daemon) -> Daemon:
    """A daemon that an ordinary user runs, in a folder of its own."""
    os.chown(daemon.folder, NOBODY, -1)
    arguments = daemon.command()[3:]
    daemon.command = lambda *_: as_user(NOBODY, *arguments)
    return daemon


@needs_root
def test_a_restore_by_root_leaves_the_store_to_the_daemons_user(
    make_daemon: MakeDaemon, tmp_path: Path
):
    daemon = of_nobody(make_daemon()).start()
    daemon.ask("allocate_cores", service_name="a", num_of_cores=2)
    does(daemon, "backup", str(tmp_path / "saved"))
    daemon.stop()
    does(daemon, "restore", str(tmp_path / "saved"))
    assert {path.stat().st_uid for path in daemon.state.iterdir()} == {NOBODY}
    assert daemon.start().owners() == {"a": "2-3"}


@needs_root
def test_root_does_not_begin_anew_beside_another_users_daemon_whose_folder_is_gone(
    make_daemon: MakeDaemon, tmp_path: Path
):
    daemon = of_nobody(make_daemon()).start()
    daemon.ask("allocate_cores", service_name="a", num_of_cores=2)
    does(daemon, "backup", str(tmp_path / "saved"))
    daemon.ask("allocate_cores", service_name="late", num_of_cores=1)
    shutil.rmtree(daemon.state)
    text = fails(daemon, "restore", str(tmp_path / "saved"), code=78)
    assert f"a daemon (pid {daemon.pid}) runs whose state folder" in text
    assert not daemon.state.exists()


@needs_root
def test_a_command_that_is_refused_gives_nothing_of_roots_away(daemon: Daemon, tmp_path: Path):
    daemon.stop()
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret").write_text("root's")
    os.chown(home, NOBODY, -1)
    done = run(daemon, "repair", "--state", str(home), "--release", '"x"')
    assert done.returncode != 0
    assert (home / "secret").stat().st_uid == 0


@needs_root
@pytest.mark.parametrize("name", ["restore", "takeover", "repair"])
def test_what_root_begins_and_does_not_do_keeps_the_daemons_user_from_nothing(
    make_daemon: MakeDaemon, name: str
):
    daemon = of_nobody(make_daemon())
    for folder in (daemon.data, daemon.state):
        folder.mkdir(exist_ok=True)
        os.chown(folder, NOBODY, -1)
    no_backup = daemon.folder / "no-backup"
    no_backup.write_text("7")
    match name:
        case "restore":
            fails(daemon, "restore", str(no_backup))
        case "takeover":
            (daemon.data / "state.json").write_text("7")
            fails(daemon, "takeover", "--prefer", "new", code=78)
            (daemon.data / "state.json").unlink()
        case _:
            daemon.start().stop()
            (daemon.state / "lock").unlink()
            fails(daemon, "repair", "--release", '"nobody"')
    assert {path.stat().st_uid for path in daemon.state.iterdir()} <= {NOBODY}
    assert daemon.start().owners() == {}
