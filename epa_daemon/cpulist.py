# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""CPU lists ("0-3,8") and CPU masks ("ff,00000003") as the kernel writes them, and sets of ids.

The formats are those of the kernel document admin-guide/cputopology ("List format" of
`online` and its neighbours, bitmaps of `cpumap` and its neighbours in words of 32 bits).
"""

import re
from collections.abc import Iterable

MAX_CPU_ID = 65535
_COMPONENT = re.compile(r"([0-9]+)(?:[ \t]*-[ \t]*([0-9]+))?")
_MASK = re.compile(r"[0-9a-fA-F]{1,8}(?:,[0-9a-fA-F]{1,8})*")


class CpuListError(ValueError):
    """The text is not a CPU list; the message names the component at fault."""


def parse(text: str) -> frozenset[int]:
    """Read a CPU list; blanks around components, any order and duplicates are fine.

    An empty or blank text is the empty set, as in the kernel's own files.

    Raises:
        CpuListError: a component is empty, negative, a stride, descending, or above 65535.
    """
    if not text.strip():
        return frozenset()
    cpus: set[int] = set()
    for component in text.split(","):
        first, last = component_range(component)
        cpus.update(range(first, last + 1))
    return frozenset(cpus)


def component_range(component: str) -> tuple[int, int]:
    """The first and last CPU id of one component, "5" or "2-7".

    Raises:
        CpuListError: as in `parse`, with the texts of the contract's part 7.
    """
    shown = component.strip()
    match = _COMPONENT.fullmatch(shown)
    shown = shown[:100]
    if match is None:
        raise CpuListError(f"Invalid cpu-pool CPU list component: '{shown}'")
    digits = [match[1], match[2] or match[1]]
    if any(len(number.lstrip("0")) > 5 or int(number) > MAX_CPU_ID for number in digits):
        raise CpuListError(f"cpu-pool CPU ID exceeds {MAX_CPU_ID}: '{shown}'")
    first, last = int(digits[0]), int(digits[1])
    if last < first:
        raise CpuListError(f"Invalid cpu-pool descending range: '{shown}'")
    return first, last


def parse_mask(text: str) -> frozenset[int]:
    """Read a CPU mask: hexadecimal words of 32 bits, the most significant first.

    Raises:
        CpuListError: the text is no mask.
    """
    text = text.strip()
    if not _MASK.fullmatch(text):
        raise CpuListError(f"Invalid CPU mask: '{text[:100]}'")
    bits = 0
    for word in text.split(","):
        bits = bits << 32 | int(word, 16)
    return frozenset(cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1)


def format_ranges(cpus: Iterable[int]) -> str:
    """Write CPU ids as ranges: ascending, merged, comma without spaces; "" for none."""
    runs: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
