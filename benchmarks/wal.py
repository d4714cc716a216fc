# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Counting the daemon's commits by reading the log that SQLite writes them to.

Format: sqlite.org/fileformat2.html, section 4. The last frame of a transaction, and no other,
has a nonzero field "size of the database after the commit". The log is written from its
beginning again after a checkpoint, with new salts in its header; frames with other salts are
left over from before. So two counts may be compared only within one generation.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")


@dataclass(frozen=True)
class Log:
    """What the log holds.

    Attributes:
        generation: the header's checkpoint number and salts.
        commits: transactions of this generation.
        frames: pages they wrote.
    """

    generation: tuple[int, int, int]
    commits: int
    frames: int


def read(path: Path) -> Log:
    """Read a log that nobody is writing to at the moment."""
    commits = frames = 0
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        if not header:  # Until the first commit.
            return Log((0, 0, 0), 0, 0)
        _, _, page_size, number, *salts, _, _ = _HEADER.unpack(header)
        while len(head := file.read(_FRAME.size)) == _FRAME.size:
            _, size_after, *frame_salts, _, _ = _FRAME.unpack(head)
            if frame_salts != salts:
                break
            frames += 1
            commits += size_after != 0
            file.seek(page_size, 1)
    return Log((number, salts[0], salts[1]), commits, frames)
