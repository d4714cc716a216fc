# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The machines that most tests want: each template goes on from the one before.

bare: snapd, the stand-in base, the consumer snap. installed: the daemon's snap too, as
`snap install` leaves it. connected: all its plugs, and the consumer's, are connected.
"""

import functools
import logging
import os
from pathlib import Path

from tests.integration.lab import cache, host, standins
from tests.integration.lab.errors import MissingNeeds
from tests.integration.lab.lab import Lab
from tests.integration.lab.machine import Machine
from tests.integration.lab.shape import Node, Shape
from tests.integration.lab.template import Template

# Node 0 is larger, so that it has a page of 1 GiB to give (see Shape).
SHAPE = Shape(
    cpus=8,
    sockets=2,
    threads=2,
    nodes=(Node("0-3", 4096), Node("4-7", 2048)),
    isolated="2-7",
    pages_2m=(32, 32),
    pages_1g=(1, 1),
)
log = logging.getLogger(__name__)

SNAP = "epa-orchestrator"
CONSUMER = "epa-consumer"
SOCKET = f"/var/snap/{SNAP}/current/data/epa.sock"
# Installing makes AppArmor profiles and mounts, on an emulated CPU.
INSTALL_TIMEOUT = 240.0

_TREE = Path(__file__).parents[3]
_PACKER = _TREE / "ci/pack-snap"
_PACKED = ("epa_daemon", "lib", "snap", "pyproject.toml", "uv.lock", "ci")


def daemon_snap(lab: Lab) -> Path:
    """EPA_SNAP's path, or the snap of the last commit.

    It is packed again when what it is made of changes; the version inside is that of the
    commit at which it was packed.

    Raises:
        MissingNeeds: there is neither.
    """
    if given := os.environ.get("EPA_SNAP"):
        return Path(given).absolute()
    if not _PACKER.exists():
        raise MissingNeeds(f"no snap to install: set EPA_SNAP=, or have {_PACKER}")

    def pack(out: Path) -> None:
        said = host.build([_PACKER, out], cwd=_TREE)
        Path(said.splitlines()[-1]).rename(out / f"{SNAP}.snap")

    git = ["git", "-C", _TREE]
    # What is packed is what is committed: the ids of those folders in the last commit.
    committed = host.build([*git, "rev-parse", *(f"HEAD:{name}" for name in _PACKED)])
    if changed := host.build([*git, "status", "--short", "--", *_PACKED]):
        log.warning("lab: these changes are not committed, and so not in the snap:\n%s", changed)
    return lab.cache.get("daemon-snap", cache.key_of(committed), pack) / f"{SNAP}.snap"


def bare(lab: Lab) -> Template:
    consumer = _consumer(lab)
    return lab.template(
        "bare", SHAPE, functools.partial(install, snap=consumer), [consumer, Path(__file__)]
    )


def installed(lab: Lab, snap: Path) -> Template:
    prepare = functools.partial(install, snap=snap, name=f"{SNAP}.snap")
    return lab.derive("installed", bare(lab), prepare, [snap, Path(__file__)])


def connected(lab: Lab, snap: Path) -> Template:
    return lab.derive("connected", installed(lab, snap), connect_everything, [Path(__file__)])


def install(machine: Machine, snap: Path, name: str = "") -> None:
    """`snap install --dangerous` of a host's file: a new revision, where there is one already.

    The file stays in the guest as /root/NAME, by default with its own name.
    """
    path = f"/root/{name or snap.name}"
    machine.put(snap, path)
    machine.run(["snap", "install", "--dangerous", path], timeout=INSTALL_TIMEOUT)


def connect_everything(machine: Machine) -> None:
    """Connect each plug of the daemon's snap to the system, and the consumer's to the daemon.

    The service is started again, as its seccomp filter is read at the start.
    """
    lines = machine.run(["snap", "connections", SNAP]).stdout.splitlines()[1:]
    for interface, plug, slot, *_ in map(str.split, lines):
        if plug.startswith(f"{SNAP}:") and slot == "-" and not interface.startswith("content"):
            machine.run(["snap", "connect", plug], timeout=INSTALL_TIMEOUT)
    consumer = ["snap", "connect", f"{CONSUMER}:epa-info", f"{SNAP}:epa-info"]
    machine.run(consumer, timeout=INSTALL_TIMEOUT)
    machine.run(["snap", "restart", SNAP], timeout=INSTALL_TIMEOUT)
    machine.run(f"until [ -S {SOCKET} ]; do sleep 0.1; done")


def _consumer(lab: Lab) -> Path:
    key = cache.key_of(files=[standins.CONSUMER, Path(standins.__file__)])
    folder = lab.cache.get("consumer", key, standins.consumer)
    return folder / f"{CONSUMER}.snap"
