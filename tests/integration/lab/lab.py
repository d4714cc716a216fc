# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What a test asks for machines."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.integration.lab import cache, host, images, initrd, machine, template
from tests.integration.lab.machine import Hardware, Machine
from tests.integration.lab.shape import Shape
from tests.integration.lab.template import Prepare, Template


class Lab:
    """Makes machines; every layer they need is made when first asked for.

    Raises:
        MissingNeeds: the host lacks programs; the message names the packages.
    """

    def __init__(self, store: cache.Cache | None = None) -> None:
        host.require()
        machine.remove_scratch_of_the_dead()
        self.cache = store or cache.Cache()
        python = host.python312()
        assert python is not None  # host.require has seen to that
        self.images = images.Images(self.cache, python)
        _ = self.images.emulator

    def kernel_machine(
        self,
        shape: Shape | None = None,
        *,
        trees: Mapping[str, Path] | None = None,
        qemu_arguments: Sequence[str] = (),
    ) -> Machine:
        """Boot a kernel with busybox and Python 3.12 only, all in memory, in some four seconds.

        Args:
            trees: folders of the host to lay into it, by the absolute path they get there.
            qemu_arguments: for example drives, seen as /dev/vda, /dev/vdb, ...
        """
        folder = machine.scratch()
        first = self.images.whole_initrd
        if trees:
            first = folder / "initrd"
            whole = self.images.whole_initrd.read_bytes()
            first.write_bytes(whole + initrd.added(trees))
        hardware = Hardware(
            self.images.emulator,
            shape or Shape(),
            self.images.kernel.image,
            first,
            arguments=tuple(qemu_arguments),
        )
        return Machine(hardware, folder)

    def template(
        self, name: str, shape: Shape, prepare: Prepare, inputs: Iterable[Path] = ()
    ) -> Template:
        """A whole machine of that shape, settled, then prepared (see template.get)."""
        return template.get(self.images, self.cache, name, shape, prepare, inputs)

    def derive(
        self, name: str, parent: Template, prepare: Prepare, inputs: Iterable[Path] = ()
    ) -> Template:
        """A clone of another template, then prepared: same shape, no boot (template.derive)."""
        return template.derive(self.images, self.cache, name, parent, prepare, inputs)
