# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The guest's first root: loads the disk's driver and goes on there, or is the whole guest."""

import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.integration.lab import kernel, python312, rootfs

# The port for the agent, the disks, and ext4 for those who test what a disk keeps.
MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "ext4")
AGENT = Path(__file__).with_name("agent.py")
INIT = Path(__file__).with_name("init.sh")
UNIT = Path(__file__).with_name("lab-agent.service")
SOURCES = (Path(__file__), AGENT, INIT, UNIT)


def small(fetched: kernel.Kernel, out: Path) -> None:
    """Write an initrd with what it takes to go on from a disk, and the agent to leave there."""
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work) / "tree"
        _fill(tree, fetched)
        out.write_bytes(archive(tree))


def whole(fetched: kernel.Kernel, python: Path, out: Path) -> None:
    """Write an initrd that is a guest by itself: busybox, Python 3.12, the agent."""
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work) / "tree"
        _fill(tree, fetched)
        libraries = tree / "usr/lib"
        libraries.mkdir(parents=True)
        python312.copy(python, tree / "usr", libraries)
        for library in python312.needed_libraries(tree / "usr/bin/python3.12"):
            if not (libraries / library.name).exists():
                shutil.copy(library, libraries / library.name)
        _libgcc(libraries)
        (tree / "lib64").symlink_to("usr/lib")
        (tree / "lib").symlink_to("usr/lib")
        out.write_bytes(archive(tree))


def _libgcc(libraries: Path) -> None:
    """glibc opens it by name when a thread ends, and compiled wheels link to it."""
    for folder in ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64"):
        found = Path(folder) / "libgcc_s.so.1"
        if found.exists() and not (libraries / found.name).exists():
            shutil.copy(found, libraries / found.name)


def _fill(tree: Path, fetched: kernel.Kernel) -> None:
    for folder in ("bin", "dev", "proc", "sys", "tmp", "run", "root", "lab/modules", "etc"):
        (tree / folder).mkdir(parents=True)
    shutil.copy2(fetched.busybox, tree / "bin/busybox")
    modules = rootfs.unpacked_modules(fetched.modules, MODULES)
    for number, (name, content) in enumerate(modules):
        (tree / f"lab/modules/{number:02}-{name}.ko").write_bytes(content)
    shutil.copy2(AGENT, tree / "lab/agent.py")
    shutil.copy2(UNIT, tree / "lab/lab-agent.service")
    shutil.copy2(INIT, tree / "init")
    (tree / "init").chmod(0o755)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\n")


def added(trees: Mapping[str, Path]) -> bytes:
    """One more archive to put behind an initrd: guest folder (absolute) -> the host's folder."""
    return b"".join(archive(path, at.strip("/")) for at, path in trees.items())


def archive(tree: Path, at: str = "") -> bytes:
    """The tree as cpio of the "newc" form, all files root's, below the folder `at`."""
    parts = [_entry(str(folder), stat.S_IFDIR | 0o755) for folder in _parents(at)]
    for path in sorted(tree.rglob("*")):
        name = f"{at}/{path.relative_to(tree)}".lstrip("/")
        mode = path.lstat().st_mode
        content = b""
        if stat.S_ISLNK(mode):
            content = os.fsencode(os.readlink(path))
        elif stat.S_ISREG(mode):
            content = path.read_bytes()
        parts.append(_entry(name, mode, content))
    parts.append(_entry("TRAILER!!!", 0))
    return b"".join(parts)


def _parents(at: str) -> list[Path]:
    path = Path(at)
    return [folder for folder in (*reversed(path.parents), path) if str(folder) != "."]


def _entry(name: str, mode: int, content: bytes = b"") -> bytes:
    """inode, mode, uid, gid, nlink, mtime, size, device (2), device (2), name's size, check."""
    links = 2 if stat.S_ISDIR(mode) else 1
    encoded = os.fsencode(name) + b"\0"
    numbers = (0, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % number for number in numbers)
    return _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
