# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""qemu: the host's if it is new enough, else the one of Debian's backports, unpacked."""

import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.integration.lab import debian, host
from tests.integration.lab.cache import Cache, key_of
from tests.integration.lab.errors import BuildFailed, MissingNeeds

# 7.2 does not boot the guest's 6.12 reliably; 9 and 10 do, and start processes of many CPUs
# at once (thread=multi) faster.
OLDEST = 9
BACKPORTS = ("bookworm", "bookworm-backports")
PACKAGES = ["qemu-system-x86", "qemu-utils"]


@dataclass(frozen=True)
class Emulator:
    """How to call qemu and qemu-img."""

    qemu: tuple[str, ...]
    image_tool: str
    version: str
    libraries: str = ""

    def env(self) -> dict[str, str]:
        environment = dict(os.environ)
        if self.libraries:
            given = environment.get("LD_LIBRARY_PATH")
            environment["LD_LIBRARY_PATH"] = self.libraries + (f":{given}" if given else "")
        return environment

    def overlay(self, backing: Path, form: str, out: Path) -> None:
        """A qcow2 of only the differences to `backing`."""
        words = [self.image_tool, "create", "-q", "-f", "qcow2", "-F", form, "-b", backing, out]
        host.build(words, env=self.env(), timeout=60)


def find(cache: Cache) -> Emulator:
    """The host's qemu, or the cache's, which is downloaded first if need be.

    Raises:
        MissingNeeds: neither is to be had.
    """
    system, image_tool = host.which("qemu-system-x86_64"), host.which("qemu-img")
    if system and image_tool and (version := _version(system, {})) and _new_enough(version):
        return Emulator((system,), image_tool, version)
    try:
        folder = cache.get("qemu", key_of(BACKPORTS, PACKAGES, debian.MIRROR), _unpack)
    except BuildFailed as error:
        raise MissingNeeds(
            f"the machine lab needs qemu {OLDEST} or newer (apt-get install qemu-system-x86 "
            f"qemu-utils), and none could be had from {BACKPORTS[-1]}: {error}"
        ) from error
    return _unpacked(folder)


def _unpack(out: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        packages = debian.Packages(Path(work), BACKPORTS, "/var/lib/dpkg/status")
        packages.unpack_with_needs(PACKAGES, BACKPORTS[-1], out / "root")
    for unused in ("share/doc", "share/man", "lib/qemu"):
        shutil.rmtree(out / "root/usr" / unused, ignore_errors=True)


def _unpacked(folder: Path) -> Emulator:
    usr = folder / "root/usr"
    data = [usr / "share/qemu", usr / "share/seabios"]
    found = [word for path in data for word in ("-L", str(path))]
    qemu = (str(usr / "bin/qemu-system-x86_64"), *found)
    libraries = str(usr / "lib/x86_64-linux-gnu")
    version = _version(qemu[0], {"LD_LIBRARY_PATH": libraries})
    if not version:
        raise MissingNeeds(f"{qemu[0]} does not start; remove {folder} and try again")
    return Emulator(qemu, str(usr / "bin/qemu-img"), version, libraries)


def _version(qemu: str, env: dict[str, str]) -> str:
    try:
        said = host.build([qemu, "--version"], env=env, timeout=60)
    except BuildFailed:
        return ""
    found = re.search(r"version (\d+\.\d+\.\d+)", said)
    return found.group(1) if found else ""


def _new_enough(version: str) -> bool:
    return int(version.split(".")[0]) >= OLDEST
