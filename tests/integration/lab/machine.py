# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A running machine: commands, files, power."""

import base64
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.integration.lab import agent, qmp
from tests.integration.lab.channel import Channel, Terminal
from tests.integration.lab.emulator import Emulator
from tests.integration.lab.errors import (
    BootFailed,
    CommandFailed,
    CommandTimedOut,
    LabError,
)
from tests.integration.lab.process import Process
from tests.integration.lab.shape import Shape

# How much longer than its own time a command may take to answer on a busy host.
SLACK = 30.0
PIECE = 192 * 1024
DEFAULT_TIMEOUT = 60.0
SCRATCH = "epa-lab-"


@dataclass(frozen=True)
class Result:
    """How a command in a guest ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Hardware:
    """What a machine is started from, and can be started from again.

    Args:
        disk: a qcow2 that the machine owns, mounted as its root; None for the small guest.
        memory: the folder of its memory files, None for memory without files.
        shared: whether it writes to those files.
        state: a saved state to go on from, instead of booting.
        arguments: more of qemu's.
    """

    emulator: Emulator
    shape: Shape
    kernel: Path
    initrd: Path
    disk: Path | None = None
    memory: Path | None = None
    shared: bool = False
    state: Path | None = None
    arguments: tuple[str, ...] = ()
    boot_timeout: float = 300.0

    def qemu_arguments(self) -> list[str]:
        fixed = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable"
        root = ("lab.root=/dev/vda",) if self.disk else ()
        words = [fixed, "random.trust_cpu=on", *root, *self.shape.kernel_arguments]
        arguments = [
            *self.shape.qemu_arguments(self.memory, shared=self.shared),
            *("-kernel", str(self.kernel), "-initrd", str(self.initrd)),
            *("-append", " ".join(words)),
        ]
        if self.disk:
            drive = f"file={self.disk},if=none,id=root,format=qcow2,cache=unsafe,discard=unmap"
            arguments += ["-drive", drive, "-device", "virtio-blk-pci,drive=root"]
        if self.state:
            arguments += ["-incoming", "defer"]
        return [*arguments, *self.arguments]


class Machine:
    """A guest that answers; every call has a time limit, and threads may call at once."""

    def __init__(self, hardware: Hardware, folder: Path | None = None) -> None:
        """Start it and wait until its agent answers.

        Args:
            folder: for its sockets and logs (see `scratch`); removed when it is closed.

        Raises:
            BootFailed: it did not; the message has the console's last lines.
        """
        self.hardware = hardware
        self.folder = folder or scratch()
        self._process, self._channel = self._start()

    def _start(self) -> tuple[Process, Channel]:
        hardware = self.hardware
        process = Process(hardware.emulator, self.folder, hardware.qemu_arguments())
        channel = None
        try:
            if hardware.state:
                with qmp.Qmp(process.control) as control:
                    control.load(hardware.state)
            channel = Channel(qmp.connect(process.agent, 30))
            channel.call("ping", hardware.boot_timeout)
            if hardware.state:
                channel.call("clock", DEFAULT_TIMEOUT, time=time.time())
        except LabError as error:
            process.end()
            if channel:
                channel.close()
            raise BootFailed(f"no answer: {error}\n{process.last_words()}") from error
        except BaseException:
            process.end()
            raise
        return process, channel

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def shape(self) -> Shape:
        return self.hardware.shape

    @property
    def pid(self) -> int:
        """qemu's, on the host."""
        return self._process.pid

    @property
    def console(self) -> str:
        """Everything that the kernel and systemd said on the serial console so far."""
        return self._process.console.read_text(errors="replace").replace("\r", "")

    def run(
        self,
        command: str | Sequence[str],
        *,
        check: bool = True,
        timeout: float = DEFAULT_TIMEOUT,
        stdin: str = "",
    ) -> Result:
        """Run a command as root; a string is given to the guest's sh.

        Raises:
            CommandFailed: it returned another code than 0, and `check` is set.
            CommandTimedOut: it was killed, with all its children, after `timeout` seconds.
            AgentError: there is no such program.
            MachineLost: the machine ended meanwhile.
        """
        argv = ["sh", "-c", command] if isinstance(command, str) else list(command)
        encoded = base64.b64encode(stdin.encode()).decode()
        answer = self._channel.call(
            "run", timeout + SLACK, argv=argv, stdin=encoded, seconds=timeout
        )
        stdout, stderr = (_text(answer[name]) for name in ("stdout", "stderr"))
        result = Result(answer["returncode"], stdout, stderr)
        if result.returncode == agent.KILLED_FOR_TIME:
            raise CommandTimedOut(_account(command, f"was killed after {timeout:g} s", result))
        if check and result.returncode:
            raise CommandFailed(_account(command, f"returned {result.returncode}", result))
        return result

    def write(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """Make or replace a file, and the folders above it."""
        data = content.encode() if isinstance(content, str) else content
        for start in range(0, max(len(data), 1), PIECE):
            piece = base64.b64encode(data[start : start + PIECE]).decode()
            fields = {"path": path, "mode": mode, "append": start > 0, "data": piece}
            self._channel.call("write", DEFAULT_TIMEOUT, **fields)

    def read(self, path: str) -> bytes:
        """All of a file's bytes, one of /proc and /sys too."""
        data = b""
        while True:
            fields = {"path": path, "offset": len(data), "size": PIECE}
            answer = self._channel.call("read", DEFAULT_TIMEOUT, **fields)
            piece = base64.b64decode(answer["data"])
            data += piece
            if len(piece) < PIECE:
                return data

    def put(self, source: Path, path: str) -> None:
        """Copy a file of the host into the guest (some 3 MB a second), with its mode."""
        self.write(path, source.read_bytes(), source.stat().st_mode & 0o777)

    def terminal(
        self, argv: list[str], size: tuple[int, int], show: Callable[[bytes], object]
    ) -> Terminal:
        """Start an interactive program (see Channel.terminal)."""
        return self._channel.terminal(argv, size, show)

    def kill(self) -> None:
        """Cut its power. What the guest wrote to its disk before stays (see README.md)."""
        self._process.end()
        self._channel.close()

    def power_off(self, timeout: float = 120.0) -> None:
        """Shut it down in order, so that its disk has everything."""
        self.run("systemctl poweroff --no-block", timeout=timeout)
        self._process.wait(timeout)

    def restart(self, *, shape: Shape | None = None, timeout: float = 120.0) -> None:
        """Shut it down, or take it as it was left by `kill`, and boot the same disk again."""
        if not self.hardware.disk:
            raise LabError("a machine without a disk has nothing to start again from")
        if self._process.alive:
            self.power_off(timeout)
        self.kill()
        new = shape or self.shape
        self.hardware = replace(self.hardware, shape=new, state=None, memory=None, shared=False)
        for leftover in (self._process.control, self._process.agent):
            leftover.unlink(missing_ok=True)
        self._process, self._channel = self._start()
        self.settle()

    def settle(self, timeout: float = 300.0) -> None:
        """Wait until systemd has started everything it wants to."""
        done = self.run("systemctl is-system-running --wait", check=False, timeout=timeout)
        if done.stdout.strip() not in ("running", "degraded"):
            raise BootFailed(f"systemd says {done.stdout.strip()}\n{self._process.last_words()}")

    def freeze(self, state: Path) -> None:
        """Save all but memory and disk to a file; the machine stands still from then on."""
        with qmp.Qmp(self._process.control) as control:
            control.save(state)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def scratch() -> Path:
    """A folder for sockets and logs, named after this process, so that others can clear it."""
    return Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-"))


def remove_scratch_of_the_dead() -> None:
    """Remove what killed test runs left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*-*"):
        owner = folder.name.removeprefix(SCRATCH).partition("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _text(encoded: str) -> str:
    return base64.b64decode(encoded).decode(errors="replace")


def _account(command: str | Sequence[str], what: str, result: Result) -> str:
    shown = command if isinstance(command, str) else shlex.join(command)
    outputs = f"--- stdout:\n{result.stdout[-4000:]}\n--- stderr:\n{result.stderr[-4000:]}"
    return f"{shown[:400]!r} {what}\n{outputs}"
