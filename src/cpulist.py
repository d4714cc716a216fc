# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""CPU lists as the kernel writes them: `2-7,12`. Pure."""

import re
from collections.abc import Iterable

_RANGE = re.compile(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", re.ASCII)
_MOST_CPUS = 65536


def parse(text: str) -> frozenset[int]:
    """The CPUs of a list; none for an empty one.

    Raises:
        ValueError: it is no CPU list.
    """
    cpus: set[int] = set()
    for part in text.split(",") if text.strip() else ():
        found = _RANGE.fullmatch(part)
        if not found:
            raise ValueError(f"'{text}' is not a CPU list such as 2-7,12")
        first, last = int(found[1]), int(found[2] or found[1])
        if first > last or last >= _MOST_CPUS:
            raise ValueError(f"'{text}' is not a CPU list: '{part.strip()}'")
        cpus.update(range(first, last + 1))
    return frozenset(cpus)


def ranges(cpus: Iterable[int]) -> str:
    """The one spelling of a set of CPUs: ascending, merged, without blanks."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
