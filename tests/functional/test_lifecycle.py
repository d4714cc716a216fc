# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Start, refusal to start, check, readiness and stop."""

import fcntl
import json
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests import host_trees
from tests.functional.daemons import Daemon, MakeDaemon, read_to_end

OLD_STATE = json.dumps(
    {
        "allocations_db": {
            "allocations": {"openstack-hypervisor": "2-5", "ceph-osd.0": "10"},
            "preemption_policies": {"ceph-osd.0": "non-preemptive"},
        },
        "version": 1,
    }
)


def test_sigterm_removes_the_socket_and_exits_0(daemon: Daemon):
    daemon.ask("allocate_cores", service_name="a", num_of_cores=1)
    assert daemon.stop() == 0
    assert list(daemon.data.iterdir()) == []
    daemon.start()
    assert daemon.owners() == {"a": "2"}


def test_sigterm_under_load_keeps_every_acknowledged_change(daemon: Daemon):
    acknowledged: dict[str, str] = {}
    stopping = threading.Event()

    def load(service: str) -> None:
        for count in range(1, 1000):
            try:
                reply = daemon.ask(
                    "allocate_cores", service_name=service, num_of_cores=1 + count % 2
                )
            except (OSError, ValueError):
                return
            if "error" not in reply:
                acknowledged[service] = reply["allocated_cores"]
            if stopping.is_set():
                return

    threads = [threading.Thread(target=load, args=(f"s{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    assert daemon.stop() == 0
    stopping.set()
    for thread in threads:
        thread.join()
    daemon.start()
    assert len(acknowledged) == 4
    assert daemon.owners() == acknowledged


def test_a_second_daemon_on_the_same_state_is_refused(daemon: Daemon, make_daemon: MakeDaemon):
    second = make_daemon()
    second.state.symlink_to(daemon.state)
    done = second.run()
    assert done.returncode == 78
    assert f"another daemon (pid {daemon.pid})" in done.stderr
    assert done.stderr.count("\n") == 1
    assert daemon.listing()["total_allocations"] == 0


def test_a_live_socket_is_never_replaced_and_a_stale_one_is(
    daemon: Daemon, make_daemon: MakeDaemon
):
    second = make_daemon()
    second.data.symlink_to(daemon.data)
    done = second.run()
    assert done.returncode == 78
    assert "another daemon listens on" in done.stderr
    assert daemon.listing()["total_allocations"] == 0
    daemon.kill()
    assert daemon.socket_path.exists()
    daemon.socket_path.with_name("epa.sock").touch()
    stale = daemon.socket_path.stat().st_ino
    daemon.launch()
    deadline = time.monotonic() + 10
    while daemon.socket_path.stat().st_ino == stale and time.monotonic() < deadline:
        time.sleep(0.01)
    assert daemon.listing()["total_allocations"] == 0


@pytest.mark.parametrize("file", ["data/state.json", "state/ledger.db"])
def test_a_refused_start_leaves_no_dead_socket(daemon: Daemon, file: str):
    """Clients take the path alone for a running daemon."""
    daemon.kill()
    assert daemon.socket_path.exists()
    (daemon.folder / file).write_text("{broken")
    assert daemon.run("--check").returncode == 78
    assert daemon.socket_path.exists(), "a check changes nothing"
    assert daemon.run().returncode == 78
    assert not daemon.socket_path.exists()


def test_a_refused_start_leaves_the_socket_of_another_daemon(
    daemon: Daemon, make_daemon: MakeDaemon
):
    second = make_daemon()
    second.data.symlink_to(daemon.data)
    second.state.mkdir()
    (second.state / "ledger.db").write_text("{broken")
    assert second.run().returncode == 78
    assert daemon.run().returncode == 78
    assert daemon.listing()["total_allocations"] == 0


def test_a_refused_start_leaves_the_socket_of_a_daemon_that_is_about_to_replace_it(
    daemon: Daemon,
):
    """Whoever has the state folder may be starting, and takes the place of a stale socket."""
    daemon.kill()
    with (daemon.state / "lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert daemon.run().returncode == 78
        assert daemon.socket_path.exists()


def test_a_refused_start_has_not_taken_over_the_old_state(daemon: Daemon, make_daemon: MakeDaemon):
    """The older daemon may still be running on the file."""
    second = make_daemon()
    second.data.symlink_to(daemon.data)
    old_state = second.data / "state.json"
    old_state.write_text(OLD_STATE)
    assert second.run().returncode == 78
    takeover = [*second.command()[:3], "takeover", "--prefer", "old"]
    takeover += ["--data", str(second.data), "--state", str(second.state)]
    assert subprocess.run(takeover, capture_output=True, check=False).returncode == 78
    assert old_state.read_text() == OLD_STATE
    assert not (second.state / "imported").exists()


@pytest.mark.parametrize("inside", [".", "state"])
def test_a_state_folder_that_clients_can_reach_is_refused(make_daemon: MakeDaemon, inside: str):
    daemon = make_daemon()
    done = daemon.run("--state", str(daemon.data / inside))
    assert done.returncode == 78
    assert "where clients can write" in done.stderr


def test_something_else_in_the_place_of_the_socket_is_left_alone(make_daemon: MakeDaemon):
    daemon = make_daemon()
    daemon.data.mkdir()
    daemon.socket_path.write_text("mine")
    done = daemon.run()
    assert done.returncode == 78
    assert "is not a socket" in done.stderr
    assert daemon.socket_path.read_text() == "mine"


def test_a_path_that_is_too_long_for_a_socket_is_refused(make_daemon: MakeDaemon):
    daemon = make_daemon()
    daemon.folder = daemon.folder / ("x" * 100)
    done = daemon.run()
    assert done.returncode == 78
    assert "choose a shorter --data" in done.stderr


def test_readiness_is_told_when_it_accepts(make_daemon: MakeDaemon, short_folder: Path):
    address = str(short_folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(20)
        daemon = make_daemon(environment={"NOTIFY_SOCKET": address})
        daemon.launch()
        assert manager.recv(100) == b"READY=1"
        assert daemon.listing()["total_allocations"] == 0
        daemon.stop()
        assert manager.recv(100) == b"STOPPING=1"


def test_the_path_appears_only_when_it_answers(make_daemon: MakeDaemon):
    daemon = make_daemon()
    daemon.launch()
    while True:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            try:
                connection.connect(str(daemon.socket_path))
            except FileNotFoundError:
                continue
            connection.sendall(b'{"action":"list_allocations"}')
            assert json.loads(read_to_end(connection))["total_allocations"] == 0
            return


def test_an_old_state_is_taken_over_at_the_start(make_daemon: MakeDaemon):
    daemon = make_daemon()
    daemon.data.mkdir()
    (daemon.data / "state.json").write_text(OLD_STATE)
    daemon.start()
    assert daemon.owners() == {"ceph-osd.0": "10", "openstack-hypervisor": "2-5"}
    assert [path.name for path in daemon.data.iterdir()] == ["epa.sock"]
    reply = daemon.ask(
        "allocate_numa_cores",
        service_name="openstack-hypervisor",
        numa_node=0,
        num_of_cores=-1,
    )
    assert reply["remaining_available_cpus"] == 11, "imported claims learn their node"
    daemon.restart()
    assert daemon.owners() == {"ceph-osd.0": "10"}


def test_a_contradicting_old_state_needs_a_word(make_daemon: MakeDaemon):
    daemon = make_daemon().start()
    daemon.ask("allocate_cores", service_name="new", num_of_cores=1)
    daemon.stop()
    (daemon.data / "state.json").write_text(OLD_STATE)
    done = daemon.run()
    assert done.returncode == 78
    assert "CPU 2 is held by openstack-hypervisor there and by new here" in done.stderr
    takeover = daemon.command()
    takeover[3:] = ["takeover", "--prefer", "old"]
    takeover += ["--data", str(daemon.data), "--state", str(daemon.state)]
    decided = subprocess.run(takeover, capture_output=True, check=False)
    assert decided.returncode == 0
    daemon.start()
    assert daemon.owners() == {"ceph-osd.0": "10", "openstack-hypervisor": "2-5"}


@pytest.mark.parametrize("file", ["data/state.json", "state/ledger.db"])
def test_state_that_cannot_be_read_keeps_the_daemon_down(make_daemon: MakeDaemon, file: str):
    daemon = make_daemon()
    path = daemon.folder / file
    path.parent.mkdir()
    path.write_text("{broken")
    for more in ((), ("--check",)):
        done = daemon.run(*more)
        assert done.returncode == 78
        assert str(path) in done.stdout + done.stderr
        assert path.read_text() == "{broken"
    assert not daemon.socket_path.exists()


def test_check_says_ok_and_touches_nothing(make_daemon: MakeDaemon):
    daemon = make_daemon(cpu_pool="0-1")
    done = daemon.run("--check")
    assert (done.returncode, done.stdout) == (0, "ok\n")
    assert not daemon.data.exists()
    assert not daemon.state.exists()
    daemon.start()
    assert daemon.run("--check").returncode == 0


def test_check_does_not_keep_a_daemon_from_starting(make_daemon: MakeDaemon):
    daemon = make_daemon().start()
    daemon.stop()
    checks = [
        subprocess.Popen(daemon.command("--check"), stdout=subprocess.DEVNULL) for _ in range(6)
    ]
    daemon.start()
    for check in checks:
        assert check.wait(20) == 0
    assert daemon.listing()["total_allocations"] == 0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--state", "/etc/passwd/x"),
        ("--data", "/etc/passwd/x"),
        ("--root", "/nonexistent"),
    ],
)
def test_check_and_start_agree_about_folders(make_daemon: MakeDaemon, option: str, value: str):
    daemon = make_daemon()
    for more in ((), ("--check",)):
        done = daemon.run(option, value, *more)
        assert done.returncode == 78
        assert value.removesuffix("/x") in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_check_sees_another_daemon_on_the_socket(daemon: Daemon, make_daemon: MakeDaemon):
    second = make_daemon()
    second.data.symlink_to(daemon.data)
    done = second.run("--check")
    assert done.returncode == 78
    assert "another daemon listens on" in done.stdout


def test_imported_claims_learn_their_node_at_the_start(make_daemon: MakeDaemon):
    daemon = make_daemon()
    daemon.data.mkdir()
    (daemon.data / "state.json").write_text(OLD_STATE)
    daemon.start()
    while "learn-nodes" not in daemon.log.read_text():
        assert daemon.listing()["total_allocations"] == 2
    host_trees.write(daemon.root / "sys/devices/system/cpu/online", "0-4,6-15")
    release = {"service_name": "openstack-hypervisor", "numa_node": 0, "num_of_cores": -1}
    daemon.ask("allocate_numa_cores", **release)
    assert daemon.owners() == {"ceph-osd.0": "10"}


def test_names_from_an_old_state_cannot_forge_lines_of_the_log(make_daemon: MakeDaemon):
    daemon = make_daemon()
    daemon.data.mkdir()
    state = {"allocations_db": {"allocations": {"a\nERROR forged": "2", "b": "2"}}}
    (daemon.data / "state.json").write_text(json.dumps(state))
    daemon.start()
    daemon.stop()
    assert "\nERROR forged" not in daemon.log.read_text()


@pytest.mark.parametrize(
    ("pool", "arguments", "text"),
    [
        ("1-2", (), "General cpu-pool overlaps isolated CPUs: 2"),
        ("0-16", (), "cpu-pool range is outside present CPU topology: '0-16'"),
        ("x", (), "Invalid cpu-pool CPU list component: 'x'"),
        (
            "",
            ("--small-system-percent", "0"),
            "Invalid policy.small-system-percent: '0' is not a whole number from 1 to 100",
        ),
    ],
)
def test_check_reports_bad_settings(
    make_daemon: MakeDaemon, pool: str, arguments: tuple[str, ...], text: str
):
    daemon = make_daemon(cpu_pool=pool, arguments=arguments)
    done = daemon.run("--check", "--format", "json")
    assert done.returncode == 78
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert text in report["problems"][0]["text"]


def test_check_sees_claims_that_a_pool_would_leave_outside(make_daemon: MakeDaemon):
    daemon = make_daemon(cpu_pool="0-1").start()
    daemon.ask("allocate_cores", service_name="g", pool="general", num_of_cores=2)
    daemon.stop()
    daemon.cpu_pool = "1"
    assert "cpu-pool excludes allocated CPUs: 0;" in daemon.run("--check").stdout
    daemon.cpu_pool = ""
    assert "CPU pool general is not configured" in daemon.run("--check").stdout


def test_policy_numbers_reach_the_heuristic(make_daemon: MakeDaemon):
    daemon = make_daemon(
        host_trees.TWO_SOCKETS, arguments=("--small-system-percent", "50")
    ).start()
    assert daemon.ask("allocate_cores", service_name="a")["cores_allocated"] == 6
