# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Snaps that the lab makes itself: stand-ins for the store's, and the test's own clients."""

import shutil
import tempfile
from pathlib import Path

from tests.integration.lab import host

# snapd mounts over these, and a base is read-only: they must be there.
MOUNT_POINTS = """
    boot dev etc/alternatives etc/ssl home lib/firmware lib/modules media meta mnt opt proc root
    run snap srv sys tmp usr/lib/snapd usr/share/gdb usr/src var/cache var/lib/dhcp
    var/lib/extrausers var/lib/snapd var/log var/snap var/tmp writable
"""
BASE_YAML = """\
name: core24
version: lab
summary: Stand-in for the base core24
description: Debian's files and a Python 3.12, in the places where core24 has them.
type: base
architectures: [amd64]
"""
SNAPD_YAML = """\
name: snapd
version: {version}
summary: Stand-in for the snap of snapd
description: Debian's snapd.
type: snapd
architectures: [amd64]
confinement: strict
"""
CONSUMER = Path(__file__).with_name("consumer")


def pack(tree: Path, out: Path) -> None:
    """Make a snap of a folder that has a meta/snap.yaml."""
    command = ["mksquashfs", tree, out, "-noappend", "-comp", "lz4", "-no-fragments"]
    host.build([*command, "-no-xattrs", "-all-root", "-no-progress", "-quiet"])


def base(tree: Path, out: Path) -> None:
    """Make core24 of a root folder."""
    shutil.rmtree(tree / "boot", ignore_errors=True)
    for folder in MOUNT_POINTS.split():
        (tree / folder).mkdir(parents=True, exist_ok=True)
    # As in core24; snapd mounts its own programs over the folder that this points to.
    (tree / "usr/bin/snapctl").symlink_to("../lib/snapd/snapctl")
    (tree / "meta/snap.yaml").write_text(BASE_YAML)
    pack(tree, out)


def snapd(guest: Path, out: Path) -> None:
    """Make the snap snapd, which any snap with a base asks for, of the guest's own snapd."""
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work) / "snap"
        (tree / "meta").mkdir(parents=True)
        (tree / "usr/bin").mkdir(parents=True)
        shutil.copytree(guest / "usr/lib/snapd", tree / "usr/lib/snapd", symlinks=True)
        shutil.copy2(guest / "usr/bin/snap", tree / "usr/bin/snap")
        (tree / "etc/apparmor.d").mkdir(parents=True)
        for profile in (guest / "etc/apparmor.d").glob("usr.lib.snapd.snap-confine*"):
            shutil.copy2(profile, tree / "etc/apparmor.d/usr.lib.snapd.snap-confine.real")
        info = (guest / "usr/lib/snapd/info").read_text()
        version = next(line for line in info.splitlines() if line.startswith("VERSION="))
        yaml = SNAPD_YAML.format(version=version.partition("=")[2])
        (tree / "meta/snap.yaml").write_text(yaml)
        pack(tree, out)


def bare_client(name: str, yaml: str, files: dict[str, str], out: Path) -> Path:
    """Make a small snap of texts: its meta/snap.yaml and programs (all executable).

    Returns:
        `out`/`name`.snap
    """
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work) / "snap"
        for path, text in {"meta/snap.yaml": yaml, **files}.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text)
            (tree / path).chmod(0o755)
        pack(tree, out / f"{name}.snap")
    return out / f"{name}.snap"


def consumer(out: Path) -> None:
    """Pack the snap of tests/integration/lab/consumer into `out`/epa-consumer.snap."""
    pack(CONSUMER, out / "epa-consumer.snap")
