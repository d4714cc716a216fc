# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Prepared machines, frozen: each clone goes on from there with memory and disk of its own."""

import functools
import inspect
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

from tests.integration.lab import cache, host, images, machine
from tests.integration.lab.machine import Machine
from tests.integration.lab.shape import Shape

Prepare = Callable[[Machine], None] | functools.partial[None]


class Template:
    """A frozen machine: memory files, a disk, the state of its devices."""

    def __init__(self, layers: images.Images, folder: Path, shape: Shape) -> None:
        self._layers = layers
        self.folder = folder
        self.shape = shape

    def clone(self) -> Machine:
        """The machine as it was when frozen, with the clock set; in about a second.

        What it writes is its own and goes when it is closed.
        """
        return self._machine(
            lambda hardware: replace(hardware, memory=self.folder, state=self.folder / "state")
        )

    def boot(self, shape: Shape) -> Machine:
        """Another machine booted from a copy of the disk: installed snaps are there."""
        booted = self._machine(lambda hardware: replace(hardware, shape=shape))
        try:
            booted.settle()
        except BaseException:
            booted.close()
            raise
        return booted

    def _machine(self, change: Callable[[machine.Hardware], machine.Hardware]) -> Machine:
        disk = machine.scratch() / "disk.qcow2"
        try:
            self._layers.emulator.overlay(self.folder / "disk.qcow2", "qcow2", disk)
            return Machine(change(self._layers.hardware(self.shape, disk)), disk.parent)
        except BaseException:
            shutil.rmtree(disk.parent)
            raise


def get(
    layers: images.Images,
    store: cache.Cache,
    name: str,
    shape: Shape,
    prepare: Prepare,
    inputs: Iterable[Path] = (),
) -> Template:
    """The template of a freshly booted machine after `prepare`, from the cache if it is there.

    Made again when the shape, the layers below, the text of `prepare` (not of what it calls) or
    the content of an input changes.
    """
    key = _key(layers, "", shape, prepare, inputs)

    def build(out: Path) -> None:
        layers.emulator.overlay(layers.settled, "qcow2", out / "disk.qcow2")
        hardware = layers.hardware(shape, out / "disk.qcow2")
        with Machine(replace(hardware, memory=out, shared=True)) as prepared:
            prepared.settle()
            _freeze(prepared, prepare, out)

    return Template(layers, store.get(name, key, build), shape)


def derive(
    layers: images.Images,
    store: cache.Cache,
    name: str,
    parent: Template,
    prepare: Prepare,
    inputs: Iterable[Path] = (),
) -> Template:
    """The template of a clone of another one after `prepare`: spares booting and settling."""
    key = _key(layers, parent.folder.name, parent.shape, prepare, inputs)

    def build(out: Path) -> None:
        layers.emulator.overlay(parent.folder / "disk.qcow2", "qcow2", out / "disk.qcow2")
        for memory in parent.folder.glob("ram.*"):
            host.build(["cp", "--sparse=always", memory, out / memory.name])
        hardware = layers.hardware(parent.shape, out / "disk.qcow2")
        state = parent.folder / "state"
        with Machine(replace(hardware, memory=out, shared=True, state=state)) as prepared:
            _freeze(prepared, prepare, out)

    return Template(layers, store.get(name, key, build), parent.shape)


def _key(
    layers: images.Images, parent: str, shape: Shape, prepare: Prepare, inputs: Iterable[Path]
) -> str:
    function = prepare.func if isinstance(prepare, functools.partial) else prepare
    texts = [inspect.getsource(part) for part in (function, get, derive, _freeze)]
    return cache.key_of(*layers.frozen_with, parent, asdict(shape), *texts, files=inputs)


def _freeze(prepared: Machine, prepare: Prepare, out: Path) -> None:
    prepare(prepared)
    # boot() starts from the disk alone: it must have everything. And what only fills memory
    # would be read by every clone.
    prepared.run("sync; echo 1 > /proc/sys/vm/drop_caches; sync")
    prepared.freeze(out / "state")
