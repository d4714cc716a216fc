# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A root shell in a machine of the lab: python -m tests.integration.lab --help."""

import argparse
import logging
import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType

from tests.integration.lab import ready
from tests.integration.lab.channel import Terminal
from tests.integration.lab.errors import LabError
from tests.integration.lab.lab import Lab
from tests.integration.lab.machine import Machine
from tests.integration.lab.shape import Node, Shape


def main(words: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(words)
    logging.basicConfig(format="%(message)s")
    try:
        with _machine(arguments) as machine:
            print(f"lab: console and sockets are in {machine.folder}", file=sys.stderr)
            shell = ["sh", "-l"] if arguments.kernel_only else ["bash", "-l"]
            return _interact(machine, arguments.command or shell)
    except (LabError, ValueError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("lab-shell", description="A root shell in a lab machine.")
    add = parser.add_argument
    add("--cpus", type=int, help="boot with so many (default: a clone with 8)")
    add("--isolated", metavar="LIST", help='boot with isolcpus=LIST ("" for none)')
    add("--kernel-only", action="store_true", help="no systemd, no snapd; boots in seconds")
    add("--without-snap", action="store_true", help="leave the daemon's snap out")
    add("command", nargs="*", help="run this instead of a shell")
    return parser


def _machine(arguments: argparse.Namespace) -> Machine:
    lab = Lab()
    shape = _shape(arguments)
    if arguments.kernel_only:
        return lab.kernel_machine(shape)
    if arguments.without_snap:
        template = ready.bare(lab)
    else:
        template = ready.connected(lab, ready.daemon_snap(lab))
    return template.clone() if shape == template.shape else template.boot(shape)


def _shape(arguments: argparse.Namespace) -> Shape:
    shape = ready.SHAPE
    if arguments.cpus:
        half, total = arguments.cpus // 2, arguments.cpus
        nodes = (Node(f"0-{half - 1}", 4096), Node(f"{half}-{total - 1}", 2048))
        shape = replace(shape, cpus=total, nodes=nodes, isolated=f"2-{total - 1}")
    if arguments.isolated is not None:
        shape = replace(shape, isolated=arguments.isolated)
    return shape


def _interact(machine: Machine, argv: list[str]) -> int:
    """Join this terminal (or a pipe) to a program in the guest."""
    size = os.get_terminal_size() if sys.stdout.isatty() else os.terminal_size((80, 24))
    terminal = machine.terminal(argv, (size.lines, size.columns), _show)

    def follow_size(number: int, frame: FrameType | None) -> None:
        size = os.get_terminal_size()
        threading.Thread(target=terminal.resize, args=(size.lines, size.columns)).start()

    signal.signal(signal.SIGWINCH, follow_size)
    with _raw_input():
        typist = threading.Thread(target=_type_on, args=(terminal,), daemon=True)
        typist.start()
        return terminal.wait()


def _show(data: bytes) -> None:
    os.write(sys.stdout.fileno(), data)


def _type_on(terminal: Terminal) -> None:
    try:
        while data := os.read(sys.stdin.fileno(), 4096):
            terminal.type(data)
        terminal.type(b"\x04")
    except LabError:
        pass  # the program has ended


@contextmanager
def _raw_input() -> Generator[None]:
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


if __name__ == "__main__":
    sys.exit(main())
