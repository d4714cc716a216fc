# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Programs of the host: run one for a build, and say which are missing."""

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.integration.lab.errors import BuildFailed, MissingNeeds

# program: the Debian or Ubuntu package which brings it
PACKAGES = {
    "apt-get": "apt",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "mksquashfs": "squashfs-tools",
    "mmdebstrap": "mmdebstrap",
    "setpriv": "util-linux",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
NO_PYTHON312 = "a Python 3.12 (python3.12 on PATH, or one of pyenv's, or its path in PYTHON312=)"
_FIND_PYTHON312 = Path(__file__).parents[3] / "ci/find-python312"


def build(
    command: Sequence[str | Path],
    *,
    timeout: float = 900,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program and return its stdout.

    Raises:
        BuildFailed: it returned another code than 0, or took longer than `timeout` seconds.
    """
    words = [str(word) for word in command]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PATH": search_path(), **(env or {})}
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            env=environment,
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"{words[0]} took longer than {timeout:.0f} s: {words}") from error
    if done.returncode:
        tail = (done.stdout + done.stderr)[-3000:]
        raise BuildFailed(f"{' '.join(words)[:500]} returned {done.returncode}:\n{tail}")
    return done.stdout


def search_path() -> str:
    """PATH, with the folders of mke2fs, which an ordinary user's PATH leaves out."""
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def which(program: str) -> str | None:
    return shutil.which(program, path=search_path())


def python312() -> Path | None:
    """A CPython 3.12 of this host, its real path."""
    try:
        return Path(build([_FIND_PYTHON312]).strip()).resolve()
    except BuildFailed:
        return None


def missing() -> list[str]:
    """Everything that the lab needs and this host lacks, as sentences for a person."""
    lacks: list[str] = []
    if platform.machine() != "x86_64":
        lacks.append("an x86-64 host (the guests are)")
    if os.geteuid():
        lacks.append("root (the guests' root folders keep their owners)")
    programs = [program for program in PACKAGES if not which(program)]
    packages = {PACKAGES[program] for program in programs}
    if not KEYRING.exists():
        programs.append(str(KEYRING))
        packages.add("debian-archive-keyring")
    if programs:
        lacks.append(f"{', '.join(programs)} (apt-get install {' '.join(sorted(packages))})")
    if python312() is None:
        lacks.append(NO_PYTHON312)
    return lacks


def require() -> None:
    """Raise MissingNeeds where something is missing."""
    if lacks := missing():
        raise MissingNeeds("the machine lab needs " + "; ".join(lacks))
