# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A machine whose disk is recorded, with a daemon under load, and a look at what a cut leaves.

What is acknowledged is seen outside the machine, through a port: a reply that arrives belongs to
a commit whose flush is in the record by then.
"""

import contextlib
import json
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults import stories
from tests.faults.stories import Held
from tests.faults.witness import Witness
from tests.faults.write_record import Record
from tests.integration.lab import host, python312, qmp
from tests.integration.lab.lab import Lab
from tests.integration.lab.machine import Machine

PROJECT = Path(__file__).parents[2]
_PORT = "lab.told"
_SERVED = "/srv/epa"
_SOCKET = "/run/epa/epa.sock"
_PATH = (
    f"cd {_SERVED} && PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={_SERVED}:{_SERVED}/site "
    f"LD_LIBRARY_PATH={_SERVED}/libraries"
)
_DISK_MIB = 24


@dataclass(frozen=True)
class Recording:
    """A disk as it was at first, all that was written to it, and what clients were told."""

    disk: Path
    record: Record
    told: Witness


def serve(folder: Path, careless: bool = False) -> Path:
    """A folder with all that a machine needs to run the daemon; a careless one never syncs."""
    for name in ("epa_daemon", "lib/charms"):
        shutil.copytree(PROJECT / name, folder / Path(name).name)
    faults = folder / "tests/faults"
    faults.mkdir(parents=True)
    for name in ("tests/__init__.py", "tests/faults/__init__.py"):
        (folder / name).touch()
    for name in ("load.py", "look.py"):
        shutil.copy(PROJECT / "tests/faults" / name, faults)
    stories.HOST.write(folder / "host")
    _install_requirements(folder / "site")
    if careless:
        patched = folder / "epa_daemon/state_folder.py"
        text = patched.read_text()
        assert 'connection.execute("PRAGMA synchronous = FULL")' in text
        patched.write_text(text.replace("synchronous = FULL", "synchronous = OFF"))
    return folder


def _install_requirements(site: Path) -> None:
    """What the lock says that the daemon needs, for the machine's Python."""
    uv = PROJECT / ".venv/bin/uv"
    exported = [uv, "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project"]
    listed = subprocess.run(
        [*exported, "--no-annotate"], cwd=PROJECT, capture_output=True, check=True
    )
    python = host.python312()
    command = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        str(python),
        "--target",
        site,
        "-r",
        "-",
    ]
    subprocess.run(command, input=listed.stdout, cwd=PROJECT, check=True, timeout=300)
    libraries = site.with_name("libraries")
    libraries.mkdir()
    # The machine has what its Python needs; a compiled wheel names these too.
    for library in (lib for so in site.rglob("*.so") for lib in python312.needed_libraries(so)):
        if library.name.startswith(("librt.", "libpthread.", "libdl.")):
            shutil.copy(library, libraries)
    compiled = [str(python), "-m", "compileall", "-q", site.parent]
    subprocess.run(compiled, check=True, timeout=120)


def _daemon(state: str) -> list[str]:
    return [
        *("python3.12", "-m", "epa_daemon", "daemon", "--root", f"{_SERVED}/host"),
        *("--data", "/run/epa", "--state", state, "--cpu-pool", stories.GENERAL),
    ]


def record(lab: Lab, served: Path, folder: Path, seed: int, seconds: float) -> Recording:
    """Let clients of a daemon in a machine change things, and cut its power."""
    disk, log = folder / "disk", folder / "record"
    _make_disk(disk)
    before = Path(shutil.copy(disk, folder / "before"))
    log.touch()
    port = folder / "told"
    arguments = [
        *_blockdev(driver="file", filename=disk, node="file"),
        *_blockdev(driver="file", filename=log, node="log"),
        *("-blockdev", "driver=blklogwrites,node-name=disk,file=file,log=log,log-sector-size=512"),
        *("-device", "virtio-blk-pci,drive=disk"),
        *("-chardev", f"socket,id=told,path={port},server=on,wait=off"),
        *("-device", f"virtserialport,chardev=told,name={_PORT}"),
    ]
    with lab.kernel_machine(trees={_SERVED: served}, qemu_arguments=arguments) as machine:
        recording = Recording(before, Record(log), Witness())
        with qmp.connect(port, 30) as line:
            listener = threading.Thread(target=_listen, args=(line, recording), daemon=True)
            listener.start()
            _load(machine, seed)
            time.sleep(seconds)
            machine.kill()
            listener.join(30)
    recording.record.read_on()
    return recording


def _blockdev(driver: str, filename: Path, node: str) -> tuple[str, str]:
    # The host need not sync: what counts is what the guest asked for, and that is recorded.
    named = f"driver={driver},filename={filename},node-name={node},cache.no-flush=on"
    return "-blockdev", named


def _make_disk(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(_DISK_MIB << 20)
    host.build(["mke2fs", "-q", "-t", "ext4", "-F", "-J", "size=4", path])


def _load(machine: Machine, seed: int) -> None:
    machine.run("mkdir -p /disk && mount -t ext4 /dev/vda /disk")
    daemon = " ".join(_daemon("/disk/state"))
    machine.run(f"{_PATH} {daemon} >/run/log 2>&1 </dev/null &")
    wait = (
        f"for _ in $(seq 300); do [ -S {_SOCKET} ] && exit; sleep 0.1; done; cat /run/log; exit 1"
    )
    machine.run(wait)
    find = f"grep -l '^{_PORT}$' /sys/class/virtio-ports/*/name | cut -d/ -f5"
    port = machine.run(find).stdout.strip()
    clients = f"python3.12 -m tests.faults.load {_SOCKET} 4 {seed} /dev/{port}"
    machine.run(f"{_PATH} {clients} >/run/clients 2>&1 </dev/null &")


def _listen(line: socket.socket, recording: Recording) -> None:
    """Note what clients were told, with the flushes that the guest had seen done by then."""
    with contextlib.suppress(OSError), line.makefile("rb") as lines:
        for content in lines:
            if not content.endswith(b"\n"):
                return
            said = json.loads(content)
            recording.told.note(said, recording.record.read_on())


def choose(recording: Recording, count: int, chance: random.Random) -> list[int]:
    """Flushes to cut the power after, from the first reply on."""
    marks = [s.mark for story in recording.told.stories.values() for s in story.steps if s.reply]
    return sorted(chance.choices(range(min(marks), recording.record.flushes + 1), k=count))


def look(
    lab: Lab, served: Path, folder: Path, disks: Sequence[bytes]
) -> Iterator[dict[str, Held] | str]:
    """Boot a machine with these disks; what a daemon shows on each, or why it does not start."""
    arguments: list[str] = []
    for number, content in enumerate(disks):
        path = folder / f"cut{number}"
        path.write_bytes(content)
        arguments += _blockdev("file", path, f"cut{number}")
        arguments += ["-device", f"virtio-blk-pci,drive=cut{number}"]
    with lab.kernel_machine(trees={_SERVED: served}, qemu_arguments=arguments) as machine:
        for number in range(len(disks)):
            machine.run(f"mkdir -p /disk && mount -t ext4 /dev/vd{chr(ord('a') + number)} /disk")
            command = " ".join(_daemon("/disk/state"))
            looked = f"{_PATH} python3.12 -m tests.faults.look {_SOCKET} {command}"
            found: dict[str, Any] = json.loads(machine.run(looked, timeout=120).stdout)
            machine.run("umount /disk")
            if "replies" in found:
                *listings, memory = found["replies"]
                yield stories.seen_of(listings, memory)
            else:
                yield str(found["log"])
