# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A reply is sent after its commit, and a failing write grants nothing."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from epa_daemon.server import MAX_CONNECTIONS
from tests import host_trees
from tests.functional.daemons import Daemon, MakeDaemon, Reply, read_to_end


def everything(daemon: Daemon) -> tuple[Reply, Reply, Reply]:
    return (
        daemon.listing(),
        daemon.listing(pool="general"),
        daemon.ask("get_memory_info")["numa_hugepages"],
    )


def test_acknowledged_changes_survive_kill_9(daemon: Daemon):
    for number in range(10):
        daemon.ask("allocate_cores", service_name=f"s{number % 3}", num_of_cores=1 + number % 4)
        daemon.ask(
            "allocate_hugepages",
            service_name="h",
            hugepages_requested=number + 1,
            node_id=0,
            size_kb=2048,
        )
        before = everything(daemon)
        daemon.kill()
        daemon.start()
        assert everything(daemon) == before


def test_a_protected_service_survives_with_all_that_protects_it(daemon: Daemon):
    daemon.ask(
        "allocate_numa_cores",
        service_name="osd",
        numa_node=1,
        num_of_cores=2,
        pool="general",
        preemption_policy="non-preemptive",
    )
    before = everything(daemon)
    daemon.restart()
    assert everything(daemon) == before
    assert before[1]["allocations"][0]["preemption_policy"] == "non-preemptive"


def until_it_fails(daemon: Daemon) -> Reply:
    """Change one claim until the store cannot grow any more; the last change left no trace."""
    for number in itertools.count():
        assert number < 5000, "the store never failed"
        before = everything(daemon)
        reply = daemon.ask("allocate_cores", service_name="a", num_of_cores=1 + number % 2)
        if "error" in reply:
            assert everything(daemon) == before
            return reply
    raise AssertionError


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    assert path.stat().st_size


@pytest.fixture
def small_disk(short_folder: Path) -> Iterator[Path]:
    """A tmpfs of its own for the state; needs root."""
    mount = short_folder / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs needs root and CAP_SYS_ADMIN")
    yield mount
    subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_disk_without_room_for_another_file_does_not_keep_the_daemon_down(
    make_daemon: MakeDaemon, small_disk: Path
):
    """One that was killed has all its files but one that a later revision adds."""
    command = ["mount", "-o", "remount,nr_inodes=20", str(small_disk)]
    subprocess.run(command, check=True)
    daemon = make_daemon()
    daemon.state.symlink_to(small_disk)
    daemon.start()
    daemon.ask("allocate_cores", service_name="a", num_of_cores=2)
    daemon.kill()
    (small_disk / "acknowledged").unlink()
    for number in range(40):
        with contextlib.suppress(OSError):
            (small_disk / f"other{number}").touch()
    assert not (small_disk / "other39").exists()
    daemon.start()
    assert daemon.owners() == {"a": "2-3"}
    (small_disk / "other0").unlink()
    daemon.ask("allocate_cores", service_name="a", num_of_cores=3)
    daemon.kill()
    assert (small_disk / "acknowledged").read_bytes()


def test_a_full_disk_grants_nothing_and_heals(make_daemon: MakeDaemon, small_disk: Path):
    daemon = make_daemon(host_trees.TWO_SOCKETS, cpu_pool="0-1")
    daemon.state.symlink_to(small_disk)
    daemon.start()
    daemon.ask("allocate_cores", service_name="before", num_of_cores=2)
    before = everything(daemon)
    ballast = small_disk / "ballast"
    fill(ballast)
    failures = [
        daemon.ask("allocate_cores", service_name="a", num_of_cores=1),
        daemon.ask("allocate_cores", service_name="before", num_of_cores=-1),
        daemon.ask(
            "allocate_hugepages",
            service_name="h",
            hugepages_requested=1,
            node_id=0,
            size_kb=2048,
        ),
    ]
    assert {reply["code"] for reply in failures} == {"store-failed"}
    assert failures[0]["error"].startswith("Failed to record CPU allocation: ")
    assert failures[2]["error"].startswith("Failed to record hugepage allocation: ")
    assert everything(daemon) == before
    assert daemon.ask("get_health")["problems"][0]["code"] == "store-failed"
    assert "the store in" in daemon.log.read_text()
    ballast.unlink()
    assert daemon.ask("allocate_cores", service_name="a", num_of_cores=1)["cores_allocated"] == 1
    assert daemon.ask("get_health")["healthy"] is True
    after = everything(daemon)
    daemon.kill()
    daemon.start()
    assert everything(daemon) == after


def test_a_file_that_may_not_grow_grants_nothing(make_daemon: MakeDaemon):
    """The same without root: the log hits the limit of a file's size."""
    daemon = make_daemon(host_trees.TWO_SOCKETS, cpu_pool="0-1")
    wrapped = daemon.command()
    daemon.command = lambda *_: ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", *wrapped]
    daemon.start()
    reply = until_it_fails(daemon)
    assert reply["code"] == "store-failed"
    before = everything(daemon)
    daemon.kill()
    daemon.command = lambda *_: wrapped
    daemon.start()
    assert everything(daemon) == before


def test_a_reply_comes_after_the_sync_of_its_commit(make_daemon: MakeDaemon):
    """Seen from outside: before the reply leaves, the store's log was synced."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    daemon = make_daemon(host_trees.TWO_SOCKETS)
    trace = daemon.folder / "trace"
    wrapped = daemon.command()
    calls = "trace=fsync,fdatasync,sendto"
    daemon.command = lambda *_: [
        *("strace", "-D", "-f", "-s", "300", "-o", str(trace), "-e", calls),
        *wrapped,
    ]
    daemon.start()
    try:
        for count in (1, 2, 3):
            reply = daemon.ask("allocate_cores", service_name="a", num_of_cores=count)
            assert reply["cores_allocated"] == count
    finally:
        daemon.stop()
    kinds = [
        "sync" if "sync(" in line else "reply"
        for line in trace.read_text().splitlines()
        if "sync(" in line or "cores_allocated" in line
    ]
    replies = [i for i, kind in enumerate(kinds) if kind == "reply"]
    assert len(replies) >= 3
    assert all(kinds[i - 1] == "sync" for i in replies[-3:])


@pytest.fixture
def hanging(make_daemon: MakeDaemon) -> Daemon:
    """A daemon whose disk takes 10 s for its first sync; ready as soon as it listens."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    daemon = make_daemon(host_trees.TWO_SOCKETS)
    daemon.start().stop()
    wrapped = daemon.command()
    inject = "inject=fdatasync,fsync:delay_enter=10000000:when=1"
    daemon.command = lambda *_: [
        *("strace", "-D", "-f", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", inject),
        *wrapped,
    ]
    return daemon.start()


GRANT = b'{"action":"allocate_cores","service_name":"a","num_of_cores":1}'


def test_a_disk_that_hangs_is_in_the_health_report_and_keeps_no_place_of_the_vanished(
    hanging: Daemon,
):
    with hanging.connect(60) as waiting:
        waiting.sendall(GRANT)
        for _ in range(MAX_CONNECTIONS - 10):
            with hanging.connect() as vanishing:
                vanishing.sendall(GRANT)
        time.sleep(2.5)
        assert hanging.descriptors() < 100
        assert hanging.ask("get_health")["healthy"] is True
        time.sleep(3.5)
        (problem,) = hanging.ask("get_health")["problems"]
        assert problem["code"] == "store-failed"
        assert "a commit has been running for" in problem["text"]
        assert hanging.owners() == {}, "nothing is shown before it is durable"
        assert json.loads(read_to_end(waiting))["cores_allocated"] == 1
    assert hanging.ask("get_health")["healthy"] is True


def test_sigterm_while_the_disk_hangs_ends_in_time_and_acknowledges_nothing(hanging: Daemon):
    with hanging.connect() as first, hanging.connect() as second:
        first.sendall(GRANT)
        time.sleep(0.5)
        second.sendall(GRANT.replace(b'"a"', b'"b"'))
        assert hanging.process is not None
        hanging.process.terminate()
        assert hanging.process.wait(12) == 1
        hanging.process = None
        assert (first.recv(10), second.recv(10)) == (b"", b"")
    assert "was not acknowledged" in hanging.log.read_text()
    assert not hanging.socket_path.exists()
