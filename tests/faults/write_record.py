# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The record that qemu's `blklogwrites` makes of a disk, and the disks that a power cut leaves.

The form is that of the kernel's dm-log-writes (admin-guide/device-mapper/log-writes.rst): a
superblock, then for each request a header of one sector, and the data of a write behind it.
"""

import random
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
_HEADER = struct.Struct("<QQQQ")
_FLUSH, _DISCARD = 1, 4
# ext4 reckons with a disk that writes its superblock (1024 bytes at 1024) whole, or not at all; it
# mounts none whose sum is wrong, so that nothing could be said of what else the cut has left.
_WITH_THE_ONE_BEFORE = 3


@dataclass(frozen=True)
class Entry:
    """A request of the guest: a write of `count` sectors, or a flush.

    Attributes:
        at: where its data is in the record, in bytes.
    """

    sector: int
    count: int
    flags: int
    at: int

    @property
    def flush(self) -> bool:
        return bool(self.flags & _FLUSH)


class Record:
    """A record that may still grow."""

    def __init__(self, path: Path):
        self._file = path.open("rb", buffering=0)
        self._next = SECTOR
        self._lock = threading.Lock()
        self.entries: list[Entry] = []
        self.flushes = 0

    def read_on(self) -> int:
        """Read what is new; returns how many flushes the guest has been told are done."""
        with self._lock:
            while entry := self._entry():
                self.entries.append(entry)
                self.flushes += entry.flush
            return self.flushes

    def _entry(self) -> Entry | None:
        self._file.seek(self._next)
        header = self._file.read(SECTOR)
        if len(header) < SECTOR or not any(header[: _HEADER.size]):
            return None
        sector, count, flags, _ = _HEADER.unpack_from(header)
        entry = Entry(sector, count, flags, self._next + SECTOR)
        has_data = not flags & (_FLUSH | _DISCARD)
        self._next += SECTOR * (1 + (count if has_data else 0))
        return entry

    def _data(self, entry: Entry) -> bytes:
        if entry.flags & _DISCARD:
            return bytes(entry.count * SECTOR)
        self._file.seek(entry.at)
        return self._file.read(entry.count * SECTOR)

    def cuts(
        self, disk: Path, flushes: Sequence[int], chance: random.Random
    ) -> Iterator[tuple[int, bytes]]:
        """The disks that are left when the power goes after some flushes, in ascending order.

        What was written before a flush is there. Of what was written after it, until the next
        one, any sectors are there.

        Args:
            disk: as it was before the first entry.
        """
        image, done, wanted = bytearray(disk.read_bytes()), 0, list(flushes)
        for number, entry in enumerate(self.entries):
            if not entry.flush:
                _put(image, entry, self._data(entry))
                continue
            done += 1
            while wanted and wanted[0] == done:
                yield wanted.pop(0), self._torn(image, number + 1, chance)

    def _torn(self, image: bytearray, start: int, chance: random.Random) -> bytes:
        left = bytearray(image)
        share = chance.choice([0.0, 0.2, 0.5, 0.8, 1.0])
        for entry in self.entries[start:]:
            if entry.flush:
                break
            data = self._data(entry)
            taken = False
            for i in range(entry.count):
                if i == 0 or entry.sector + i != _WITH_THE_ONE_BEFORE:
                    taken = chance.random() < share
                if taken:
                    piece = data[i * SECTOR : (i + 1) * SECTOR]
                    _put(left, Entry(entry.sector + i, 1, 0, 0), piece)
        return bytes(left)


def _put(image: bytearray, entry: Entry, data: bytes) -> None:
    start = entry.sector * SECTOR
    image[start : start + len(data)] = data
