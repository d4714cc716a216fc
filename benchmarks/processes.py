# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The processes that are measured: started on the server's CPU, ended by their own handles."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

from benchmarks import clients, hosts, load, pinning
from benchmarks.hosts import Scene
from benchmarks.pinning import Cpus

_PROJECT = Path(__file__).resolve().parent.parent
_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.001


class Server:
    """A process that serves a socket."""

    def __init__(self, process: subprocess.Popen[str], socket: Path):
        self.process = process
        self.socket = socket

    def rss_mb(self) -> float:
        """Resident memory, in units of 10^6 bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024 / 1e6

    def cpu_seconds(self) -> float:
        """CPU time that all of its threads have used (proc(5), stat: utime and stime)."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text()
        after_name = stat.rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


class Daemon(Server):
    """The daemon on a generated host."""

    def __init__(self, process: subprocess.Popen[str], folder: Path):
        super().__init__(process, folder / "data/epa.sock")
        self.log = folder / "state/ledger.db-wal"


class Committer:
    """The floor that commits."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process

    def seconds(self, count: int) -> list[float]:
        """Commit so many times; returns the seconds of each."""
        assert self._process.stdin
        assert self._process.stdout
        print(count, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


@contextlib.contextmanager
def _process(arguments: list[str], cpus: Cpus, errors: Path) -> Generator[subprocess.Popen[str]]:
    with errors.open("a") as log, pinning.as_server(cpus):
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=_PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(process: subprocess.Popen[str], answers: Callable[[], object], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            answers()
        except (FileNotFoundError, ConnectionRefusedError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a server did not start: {log.read_text()[-2000:]}") from None
            time.sleep(_POLL_SECONDS)
        else:
            return


@contextlib.contextmanager
def echo(kind: str, folder: Path, cpus: Cpus) -> Generator[Server]:
    """An echo floor, ready."""
    socket, log = folder / f"{kind}.sock", folder / f"{kind}.log"
    with _process(["benchmarks.floors", kind, str(socket)], cpus, log) as process:
        send = clients.one_connection_each(socket)
        if kind == "asyncio-kept":  # It would not close.
            _wait_for(process, socket.stat, log)
        else:
            _wait_for(process, lambda: send(b"{}"), log)
        yield Server(process, socket)


@contextlib.contextmanager
def committer(folder: Path, cpus: Cpus) -> Generator[Committer]:
    """The commit floor, with its database in a folder beside those of the daemons."""
    arguments = ["benchmarks.floors", "commit", str(folder / "floor.db")]
    with _process(arguments, cpus, folder / "commit.log") as process:
        yield Committer(process)


@contextlib.contextmanager
def daemon_of_this_host(folder: Path, cpus: Cpus) -> Generator[Daemon]:
    """A daemon that may move this host's threads; the client's CPU is its general pool."""
    options = {"cpu-pool": cpus.client, "ovs-switch": folder / "switch", "root": "/"}
    options |= {name: folder / name for name in ("data", "state")}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    with _started(["epa_daemon", "daemon", *arguments], folder, cpus) as started:
        yield started


@contextlib.contextmanager
def daemon(folder: Path, cpus: Cpus) -> Generator[Daemon]:
    """A daemon in a folder that `prepare` has filled; it has answered once."""
    arguments = ["epa_daemon", "daemon", "--cpu-pool", hosts.GENERAL]
    for name in ("root", "data", "state"):
        arguments += [f"--{name}", str(folder / name)]
    with _started(arguments, folder, cpus) as started:
        yield started


@contextlib.contextmanager
def _started(arguments: list[str], folder: Path, cpus: Cpus) -> Generator[Daemon]:
    log = folder / "daemon.log"
    with _process(arguments, cpus, log) as process:
        started = Daemon(process, folder)
        _wait_for(process, lambda: clients.ask(started.socket, hosts.listing()), log)
        yield started


def prepare(scene: Scene, folder: Path) -> Path:
    """Write the scene's host below a new folder."""
    folder.mkdir()
    scene.tree.write(folder / "root")
    return folder


@contextlib.contextmanager
def loaded_daemon(scene: Scene, folder: Path, cpus: Cpus) -> Generator[Daemon]:
    """A daemon on a scene, with all of its services."""
    with daemon(prepare(scene, folder), cpus) as started:
        load.spread(started.socket, scene.preload())
        yield started
