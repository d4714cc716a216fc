# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Debian packages without installing them: downloads with the host's own way out.

Only the sources are the lab's: proxies, certificates and credentials stay those of the host's apt
configuration.
"""

import os
from pathlib import Path

from tests.integration.lab import host

MIRROR = os.environ.get("EPA_LAB_MIRROR", "http://deb.debian.org/debian")
GUEST_SUITE = "trixie"
_EMPTY = "/dev/null"


def source(suite: str) -> str:
    return f"deb [signed-by={host.KEYRING}] {MIRROR} {suite} main"


def host_way_out(into: Path) -> Path:
    """The host's Acquire settings, for a program which reads no host configuration."""
    dump = host.build(["apt-config", "dump", "--format", '%F "%v";%n'])
    kept = [line for line in dump.splitlines() if line.startswith(("Acquire::http", "Acquire::R"))]
    into.write_text("\n".join(kept) + "\n")
    return into


class Packages:
    """The packages of some suites, as a host with the given dpkg status would get them."""

    def __init__(self, work: Path, suites: tuple[str, ...], status: str = _EMPTY) -> None:
        self._work = work
        for folder in ("lists/partial", "cache/archives/partial"):
            (work / folder).mkdir(parents=True)
        (work / "sources.list").write_text("\n".join(map(source, suites)) + "\n")
        settings = {
            "Dir::Etc::SourceList": work / "sources.list",
            "Dir::Etc::SourceParts": _EMPTY,
            "Dir::Etc::PreferencesParts": _EMPTY,
            "Dir::State::Lists": work / "lists",
            "Dir::State::Status": status,
            "Dir::Cache": work / "cache",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "APT::Sandbox::User": "root",
            "APT::Architecture": "amd64",
            "Debug::NoLocking": "1",
        }
        self._options = [word for name, value in settings.items() for word in _option(name, value)]
        self._apt("apt-get", "update", "-qq", "--error-on=any")

    def unpack_with_needs(self, names: list[str], release: str, into: Path) -> None:
        """Unpack these and what they need that the dpkg status does not already have."""
        command = ["apt-get", "install", "--download-only", "-y", "-qq", "--reinstall"]
        self._apt(*command, "--no-install-recommends", "-t", release, *names)
        self._unpack_all(self._work / "cache" / "archives", into)

    def unpack(self, names: list[str], into: Path) -> None:
        """Unpack exactly these."""
        downloads = self._work / "downloads"
        downloads.mkdir()
        self._apt("apt-get", "download", "-qq", *names, cwd=downloads)
        self._unpack_all(downloads, into)

    def depends(self, name: str, prefix: str) -> str:
        """The package among `name`'s dependencies that begins with the prefix."""
        said = self._apt("apt-cache", "depends", name)
        words = [line.split()[-1] for line in said.splitlines() if "Depends:" in line]
        return next(word for word in words if word.startswith(prefix))

    def _apt(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        return host.build([program, *self._options, *arguments], cwd=cwd)

    @staticmethod
    def _unpack_all(downloads: Path, into: Path) -> None:
        into.mkdir(exist_ok=True)
        for package in sorted(downloads.glob("*.deb")):
            host.build(["dpkg-deb", "-x", package, into])


def _option(name: str, value: object) -> tuple[str, str]:
    return "-o", f"{name}={value}"
