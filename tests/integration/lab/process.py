# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A qemu process that ends with the test run, however that ends."""

import atexit
import subprocess
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.integration.lab.emulator import Emulator
from tests.integration.lab.errors import MachineLost

FILES = ("console.log", "qmp.sock", "agent.sock")
# PDEATHSIG comes when the *thread* that started the process ends: this one never does.
_starter = ThreadPoolExecutor(1, "lab-qemu-starter")
_running: weakref.WeakSet["Process"] = weakref.WeakSet()


class Process:
    """One qemu, with its sockets and logs in a folder.

    The folder's path must be short: a Unix socket's path has room for 107 bytes.
    """

    def __init__(self, emulator: Emulator, folder: Path, arguments: Sequence[str]) -> None:
        self.folder = folder
        self.console, self.control, self.agent = (folder / name for name in FILES)
        words = [*emulator.qemu, *fixed_arguments(folder), *arguments]
        with (folder / "qemu.log").open("wb") as log:
            self._process = _starter.submit(
                subprocess.Popen,
                ["setpriv", "--pdeathsig", "KILL", "--", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=emulator.env(),
                start_new_session=True,
            ).result()
        _running.add(self)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout: float) -> None:
        """Until it ends by itself.

        Raises:
            MachineLost: it did not within `timeout` seconds.
        """
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise MachineLost(f"the machine still runs after {timeout:.0f} s") from None

    def end(self) -> None:
        """At once, as a power cut does."""
        self._process.kill()
        self._process.wait()

    def last_words(self, lines: int = 30) -> str:
        """The ends of qemu's own output and of the guest's console."""
        texts: list[str] = []
        for path in (self.folder / "qemu.log", self.console):
            if path.exists() and (text := path.read_text(errors="replace").strip()):
                tail = "\n".join(text.replace("\r", "").splitlines()[-lines:])
                texts.append(f"--- {path.name}:\n{tail}")
        return "\n".join(texts) or "--- nothing was said on the console"


def fixed_arguments(folder: Path) -> list[str]:
    """What every machine has: a console, a control socket, a line to its agent."""
    console, control, agent = (folder / name for name in FILES)
    return [
        *("-machine", "q35,hpet=off", "-accel", "tcg,thread=multi,tb-size=512"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-serial", f"file:{console}"),
        *("-qmp", f"unix:{control},server=on,wait=off"),
        *("-device", "virtio-serial-pci", "-device", "virtio-rng-pci"),
        *("-chardev", f"socket,id=agent,path={agent},server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=lab.agent"),
    ]


@atexit.register
def _end_all() -> None:
    for process in list(_running):
        process.end()
