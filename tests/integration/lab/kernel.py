# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The guest's kernel, its modules, and a static busybox, from Debian's packages."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.integration.lab import debian, host
from tests.integration.lab.cache import Cache, key_of

# The cloud kernel boots fastest and has what the lab needs (isolcpus, NUMA, hugepages, AppArmor,
# openvswitch, an 8250 console).
FLAVOUR = "linux-image-cloud-amd64"


@dataclass(frozen=True)
class Kernel:
    """A folder as fetched: `vmlinuz`, `busybox`, `lib/modules/<release>`."""

    folder: Path

    @property
    def image(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def busybox(self) -> Path:
        return self.folder / "busybox"

    @property
    def modules(self) -> Path:
        return next((self.folder / "lib/modules").iterdir())


def find(cache: Cache) -> Kernel:
    key = key_of(FLAVOUR, debian.GUEST_SUITE, debian.MIRROR, files=[Path(__file__)])
    return Kernel(cache.get("kernel", key, _fetch))


def _fetch(out: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        root = Path(work) / "root"
        packages = debian.Packages(Path(work) / "apt", (debian.GUEST_SUITE,))
        image = packages.depends(FLAVOUR, "linux-image-")
        packages.unpack([image, "busybox-static"], root)
        shutil.move(next((root / "boot").glob("vmlinuz-*")), out / "vmlinuz")
        shutil.move(root / "usr/bin/busybox", out / "busybox")
        modules = next(path for path in (root / "lib", root / "usr/lib") if path.is_dir())
        shutil.move(modules / "modules", out / "lib/modules")
    host.build([out / "busybox", "depmod", "-b", out, next((out / "lib/modules").iterdir()).name])
