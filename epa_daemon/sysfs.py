# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Reading single files of a host tree, telling absent, unreadable and malformed apart."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from epa_daemon import cpulist

T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """A file of the host that did not say what was asked of it.

    Attributes:
        kind: `absent` (this kernel or machine has no such file), `unreadable` (it is there, but
            reading failed, usually for lack of a snap connection) or `malformed`.
        reason: the errno text, or what is wrong with the content.
        advice: what an operator can do about it.
    """

    path: str
    kind: Literal["absent", "unreadable", "malformed"]
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason} ({self.kind}); {self.advice}"


class FaultyFile(Exception):
    """A file could not be used; carries its `Fault`. Never leaves the reading modules."""

    def __init__(self, fault: Fault):
        super().__init__(str(fault))
        self.fault = fault


def read_bytes(path: str, advice: str) -> bytes:
    """The whole content of a file.

    Raises:
        FaultyFile: it is absent or unreadable.
    """
    # sysfs answers a small file in one read; os.read costs a third of what open() does, and
    # two such reads stand in front of every decision.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            content = os.read(descriptor, 1 << 16)
        finally:
            os.close(descriptor)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        kind = "absent" if missing else "unreadable"
        reason = error.strerror or str(error)
        raise FaultyFile(Fault(path, kind, reason, advice)) from error
    return content


def text_of(content: bytes) -> str:
    """The text of a sysfs file without its end: a newline and, on some kernels, a NUL after it."""
    return content.decode("ascii", "backslashreplace").rstrip("\0\n")


def read(path: str | Path, parse: Callable[[str], T], advice: str) -> T:
    """The parsed content of a file.

    Raises:
        FaultyFile: it is absent, unreadable, or `parse` raised ValueError.
    """
    content = read_bytes(str(path), advice)
    try:
        return parse(text_of(content))
    except ValueError as error:
        raise FaultyFile(malformed(str(path), error)) from error


def malformed(path: str, error: ValueError) -> Fault:
    """The fault of a file whose content is not what the kernel's documents say."""
    return Fault(path, "malformed", str(error), "report this with the content of the file")


def read_first_set(
    folder: Path, lists: tuple[str, ...], masks: tuple[str, ...], advice: str
) -> frozenset[int]:
    """A set of CPUs from the first of several files that is there, lists before masks.

    Raises:
        FaultyFile: a file is there and cannot be used, or (the last one's fault) all are absent.
    """
    absent: FaultyFile | None = None
    sources = [(name, cpulist.parse) for name in lists] + [(m, cpulist.parse_mask) for m in masks]
    for name, parse in sources:
        try:
            return read(folder / name, parse, advice)
        except FaultyFile as error:
            if error.fault.kind != "absent":
                raise
            absent = absent or error
    assert absent is not None
    raise absent


def children(folder: str | Path, advice: str) -> list[str]:
    """The names in a folder, in no order; [] if it is absent.

    Raises:
        FaultyFile: the folder is there and cannot be listed.
    """
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        reason = error.strerror or str(error)
        raise FaultyFile(Fault(str(folder), "unreadable", reason, advice)) from error


def numbered(folder: Path, prefix: str, advice: str) -> dict[int, Path]:
    """The entries `<prefix><number>` of a folder by number, ascending; {} if it is absent.

    Raises:
        FaultyFile: the folder is there and cannot be listed.
    """
    found: dict[int, Path] = {}
    for name in children(folder, advice):
        number = name.removeprefix(prefix)
        if number != name and number.isascii() and number.isdecimal():
            found[int(number)] = folder / name
    return dict(sorted(found.items()))
