# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Artefacts that are slow to make, kept in folders named after a hash of what went into them.

A folder appears under its final name only when it is complete. Whoever uses one holds a shared
lock on it until the process ends, so that another run which makes a newer generation leaves it in
place.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from tests.integration.lab.errors import LabError

log = logging.getLogger(__name__)


def default_root() -> Path:
    """The folder for artefacts: never inside the source tree."""
    if given := os.environ.get("EPA_LAB_CACHE"):
        return Path(given).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "epa-orchestrator" / "lab"


def key_of(*parts: object, files: Iterable[Path] = ()) -> str:
    """A short hash of the parts' text, and of the names and contents of the files and folders."""
    digest = hashlib.sha256(repr(parts).encode())
    for path in files:
        for file in _below(path):
            inside = file.relative_to(path.parent)
            mode = file.lstat().st_mode
            digest.update(f"\0{inside}\0{mode:o}\0".encode())
            digest.update(os.readlink(file).encode() if file.is_symlink() else file.read_bytes())
    return digest.hexdigest()[:16]


def _below(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return sorted(
        file
        for file in path.rglob("*")
        if (file.is_symlink() or file.is_file()) and "__pycache__" not in file.parts
    )


class Cache:
    """A folder of artefacts, shared by any number of processes."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()
        self.root.mkdir(parents=True, exist_ok=True)
        self._held: dict[Path, int] = {}

    def get(self, name: str, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of this artefact; `build` fills an empty one if there is none.

        Raises:
            whatever `build` raises; nothing is kept then.
        """
        final = self.root / f"{name}@{key}"
        if final in self._held:
            return final
        with _locked(self.root / f"{name}.lock"):
            self._remove_leftovers(name)
            if not final.is_dir():
                self._build(name, final, build)
            self._held[final] = _hold(final)
            self._remove_others(name, final)
        return final

    def release(self) -> None:
        """Let others remove what this one has used."""
        for handle in self._held.values():
            os.close(handle)
        self._held.clear()

    def _build(self, name: str, final: Path, build: Callable[[Path], None]) -> None:
        part = Path(tempfile.mkdtemp(prefix=f"{name}@", suffix=".part", dir=self.root))
        part.chmod(0o755)
        started = time.monotonic()
        log.warning("lab: building %s (once; kept in %s)", name, self.root)
        try:
            build(part)
            part.rename(final)
        except BaseException:
            _remove(part)
            raise
        log.warning("lab: built %s in %.1f s", name, time.monotonic() - started)

    def _remove_leftovers(self, name: str) -> None:
        """Under the name's lock nobody builds, so that every `.part` is a killed build's."""
        for part in self.root.glob(f"{name}@*.part"):
            _remove(part)

    def _remove_others(self, name: str, current: Path) -> None:
        for other in self.root.glob(f"{name}@*"):
            if other != current and _nobody_uses(other):
                _remove(other)


@contextmanager
def _locked(path: Path) -> Generator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _hold(folder: Path) -> int:
    """A shared lock that lasts as long as this process."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(handle, fcntl.LOCK_SH)
    return handle


def _nobody_uses(folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _remove(folder: Path) -> None:
    """Remove a tree, but never reach through something that is still mounted inside it."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    inside = [line.split()[1] for line in mounts if line.split()[1].startswith(f"{folder}/")]
    if inside:
        raise LabError(f"{folder} still has mounts: {', '.join(inside)}; unmount them")
    shutil.rmtree(folder)
