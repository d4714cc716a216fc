# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The disks that a power cut leaves, by the record of what was written."""

import random
import struct
from pathlib import Path

from tests.faults.write_record import SECTOR, Record

_WRITE, _FLUSH = 0, 1


def _header(sector: int, count: int, flags: int) -> bytes:
    return struct.pack("<QQQQ", sector, count, flags, 0).ljust(SECTOR, b"\0")


def _cuts(folder: Path, sector: int, count: int, seed: int) -> bytes:
    """What is left of a disk of zeros after a flush and a write of ones that was not flushed."""
    (folder / "disk").write_bytes(bytes(16 * SECTOR))
    (folder / "record").write_bytes(
        bytes(SECTOR)
        + _header(0, 0, _FLUSH)
        + _header(sector, count, _WRITE)
        + b"\1" * count * SECTOR
    )
    record = Record(folder / "record")
    record.read_on()
    [(flush, left)] = record.cuts(folder / "disk", [1], random.Random(seed))
    assert flush == 1
    return left[sector * SECTOR : (sector + count) * SECTOR]


def _torn(left: bytes) -> bool:
    """Whether some of its sectors were written and others not."""
    return len({left[at] for at in range(0, len(left), SECTOR)}) > 1


def test_any_sectors_of_what_was_not_flushed_may_be_missing(tmp_path: Path):
    assert any(_torn(_cuts(tmp_path, 8, 2, seed)) for seed in range(30))


def test_a_superblock_is_written_whole(tmp_path: Path):
    """ext4 does not mount one that is torn, whoever wrote whatever to the rest of the disk."""
    assert not any(_torn(_cuts(tmp_path, 2, 2, seed)) for seed in range(30))
