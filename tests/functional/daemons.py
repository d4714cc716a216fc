# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A daemon process of its own, and the ways in which clients talk to it."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Reply = dict[str, Any]
MakeDaemon = Callable[..., "Daemon"]


@dataclasses.dataclass
class Daemon:
    """Settings of a daemon; `start` makes it a process."""

    folder: Path
    root: Path
    cpu_pool: str | None = ""
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    process: subprocess.Popen[str] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def socket_path(self) -> Path:
        return self.data / "epa.sock"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def command(self, *more: str) -> list[str]:
        return [
            *(sys.executable, "-m", "epa_daemon", "daemon"),
            *("--root", str(self.root), "--data", str(self.data), "--state", str(self.state)),
            *(() if self.cpu_pool is None else ("--cpu-pool", self.cpu_pool)),
            *(*self.arguments, *more),
        ]

    def launch(self) -> "subprocess.Popen[str]":
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command(),
                stderr=log,
                stdin=subprocess.DEVNULL,
                text=True,
                env=os.environ | self.environment,
            )
        return self.process

    def start(self) -> "Daemon":
        process = self.launch()
        deadline = time.monotonic() + 20
        while not self.answers():
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, "the daemon does not listen"
            time.sleep(0.01)
        return self

    def answers(self) -> bool:
        """Whether it accepts connections; a socket left by kill -9 is there and refuses."""
        try:
            self.connect().close()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def run(self, *more: str) -> "subprocess.CompletedProcess[str]":
        """Run to the end, for starts that fail and for --check."""
        return subprocess.run(
            self.command(*more),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=os.environ | self.environment,
        )

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(20)
        self.process = None
        return code

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(20)
            self.process = None

    def restart(self) -> "Daemon":
        self.stop()
        return self.start()

    def connect(self, timeout: float = 20) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout)
        connection.connect(str(self.socket_path))
        return connection

    def raw(self, data: bytes) -> bytes:
        """One request as most clients do it: one sendall, then read to the end."""
        with self.connect() as connection:
            connection.sendall(data)
            return read_to_end(connection)

    def ask(self, action: str, **fields: Any) -> Reply:
        request = {"version": "1.0", "action": action, **fields}
        return json.loads(self.raw(json.dumps(request).encode()))

    def listing(self, **fields: Any) -> Reply:
        return self.ask("list_allocations", **fields)

    def owners(self, **fields: Any) -> dict[str, str]:
        listing = self.listing(**fields)
        return {a["service_name"]: a["allocated_cores"] for a in listing["allocations"]}

    def memory_kb(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


def read_to_end(connection: socket.socket) -> bytes:
    received = b""
    while data := connection.recv(65536):
        received += data
    return received


def copy_of(root: Path, target: Path) -> Path:
    """A host tree that the test may change."""
    return Path(shutil.copytree(root, target))
