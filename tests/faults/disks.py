# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Disks that fail when told to: failing_disk.c, built and given to a daemon."""

import errno
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from epa_daemon import state_folder
from tests.functional.daemons import Daemon

SOURCE = Path(__file__).with_name("failing_disk.c")
SHORT = 0
_FOR_EVER = 1_000_000


def build(out: Path) -> Path | None:
    """The library; None where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    words = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", out, SOURCE, "-ldl"]
    subprocess.run(words, check=True, timeout=60)
    return out


@dataclass(frozen=True)
class Disk:
    """The disk of one daemon's store: good until told otherwise."""

    orders: Path

    def fail(
        self, kind: str, error: int = errno.EIO, skip: int = 0, times: int = _FOR_EVER
    ) -> None:
        """Let calls of a kind (write, sync, cut, any) fail, after `skip` that work."""
        self.counter.unlink(missing_ok=True)
        new = self.orders.with_suffix(".new")
        # The blanks make it differ from the last orders, so that counting starts anew.
        new.write_text(f"{kind} {error} {skip} {times} " + " " * (len(self._now()) % 2))
        new.rename(self.orders)

    def heal(self) -> None:
        self.orders.unlink(missing_ok=True)

    @property
    def counter(self) -> Path:
        return Path(f"{self.orders}.count")

    @property
    def failed(self) -> int:
        """How many calls were made to fail since the last orders."""
        return self.counter.stat().st_size if self.counter.exists() else 0

    def _now(self) -> str:
        return self.orders.read_text() if self.orders.exists() else ""


def put_under(daemon: Daemon, library: Path) -> Disk:
    """Give a daemon's store such a disk, from its next start on."""
    disk = Disk(daemon.folder / "orders")
    daemon.environment |= {
        "LD_PRELOAD": str(library),
        "EPA_DISK": f"/{state_folder.DATABASE}",
        "EPA_DISK_ORDERS": str(disk.orders),
    }
    return disk
