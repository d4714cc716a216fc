# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The layers below every machine, each made once: kernel, initrds, base snap, disk image, boot."""

import functools
import inspect
import tempfile
from pathlib import Path
from types import ModuleType

from tests.integration.lab import (
    cache,
    debian,
    emulator,
    host,
    initrd,
    kernel,
    machine,
    process,
    python312,
    rootfs,
    standins,
)
from tests.integration.lab.shape import Node, Shape

SNAPS = "/opt/lab"
# The settled disk is made by a machine that has a bit of everything.
SETTLING = Shape(nodes=(Node("0-3", 1024), Node("4-7", 1024)))


class Images:
    """The paths of the layers; asking for one makes it and those below it."""

    def __init__(self, store: cache.Cache, python: Path) -> None:
        self._cache = store
        self._python = python

    @functools.cached_property
    def emulator(self) -> emulator.Emulator:
        return emulator.find(self._cache)

    @functools.cached_property
    def kernel(self) -> kernel.Kernel:
        return kernel.find(self._cache)

    @functools.cached_property
    def small_initrd(self) -> Path:
        """Goes on from a disk."""
        key = cache.key_of(self.kernel.folder.name, files=initrd.SOURCES)
        return self._cache.get("initrd", key, self._make_small_initrd) / "initrd"

    @functools.cached_property
    def whole_initrd(self) -> Path:
        """Is a guest by itself, with a Python."""
        key = self._key(self.kernel.folder.name, sources=initrd.SOURCES)
        return self._cache.get("initrd-python", key, self._make_whole_initrd) / "initrd"

    @functools.cached_property
    def base_snap(self) -> Path:
        """The stand-in for core24."""
        key = self._key(rootfs.BASE, debian.MIRROR, sources=_files(rootfs, standins))
        return self._cache.get("core24", key, self._make_base) / "core24.snap"

    @functools.cached_property
    def disk(self) -> Path:
        """The guest as installed, never booted: an ext4 image."""
        sources = _files(rootfs, standins)
        parents = (self.kernel.folder.name, self.base_snap.parent.name)
        key = self._key(rootfs.GUEST, debian.MIRROR, *parents, sources=sources)
        return self._cache.get("guest", key, self._make_disk) / "disk.img"

    @functools.cached_property
    def settled(self) -> Path:
        """The guest after its first boot, with snapd's state, AppArmor's cache and core24."""
        key = cache.key_of(self.disk.parent.name, SETTLING, inspect.getsource(Images._settle))
        return self._cache.get("settled", key, self._settle) / "disk.qcow2"

    @property
    def frozen_with(self) -> tuple[str, ...]:
        """What a saved state can only be loaded with, or has in its memory (the agent)."""
        builders = (machine.Hardware.qemu_arguments, Shape.qemu_arguments, process.fixed_arguments)
        return (
            *map(inspect.getsource, builders),
            self.emulator.version,
            self.small_initrd.parent.name,
            self.settled.parent.name,
        )

    def _key(self, *parts: object, sources: tuple[Path, ...]) -> str:
        own = (python312.fingerprint(self._python), *parts)
        return cache.key_of(own, files=(*sources, *_files(python312)))

    def _make_small_initrd(self, out: Path) -> None:
        initrd.small(self.kernel, out / "initrd")

    def _make_whole_initrd(self, out: Path) -> None:
        initrd.whole(self.kernel, self._python, out / "initrd")

    def _make_base(self, out: Path) -> None:
        with tempfile.TemporaryDirectory(dir=out) as work:
            tree = Path(work) / "root"
            tree.mkdir()
            rootfs.base(tree, self._python)
            standins.base(tree, out / "core24.snap")

    def _make_disk(self, out: Path) -> None:
        with tempfile.TemporaryDirectory(dir=out) as work:
            tree = Path(work) / "root"
            tree.mkdir()
            rootfs.guest(tree, self.kernel.folder / "lib/modules", self._python)
            snaps = tree / SNAPS.strip("/")
            snaps.mkdir(parents=True)
            host.build(["cp", self.base_snap, snaps / "core24.snap"])
            standins.snapd(tree, snaps / "snapd.snap")
            rootfs.image(tree, out / "disk.img")

    def _settle(self, out: Path) -> None:
        self.emulator.overlay(self.disk, "raw", out / "disk.qcow2")
        hardware = self.hardware(SETTLING, out / "disk.qcow2")
        with machine.Machine(hardware) as guest:
            guest.settle()
            guest.run("snap wait system seed.loaded", timeout=120)
            for snap in ("snapd", "core24"):
                guest.run(f"snap install --dangerous {SNAPS}/{snap}.snap", timeout=180)
            guest.power_off()

    def hardware(self, shape: Shape, disk: Path) -> machine.Hardware:
        """A whole machine on a disk of its own."""
        return machine.Hardware(
            self.emulator, shape, self.kernel.image, self.small_initrd, disk=disk
        )


def _files(*modules: ModuleType) -> tuple[Path, ...]:
    return tuple(Path(str(module.__file__)) for module in modules)
