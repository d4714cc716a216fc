# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What was measured, as one table for people and as JSON for machines."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

_HEADER = ("", "MEASURED", "AGAINST", "RATIO", "TARGET", "")


@dataclass(frozen=True)
class Row:
    """One result.

    Attributes:
        value: the median.
        against: what it is compared with, in the same unit; None for nothing.
        base: the name of that.
        target: limit of the ratio, or of the value where there is nothing to compare with.
        at_least: the target is a lower limit.
    """

    name: str
    value: float
    unit: str
    against: float | None = None
    base: str = ""
    target: float | None = None
    at_least: bool = False

    @property
    def ratio(self) -> float | None:
        return None if self.against is None else self.value / self.against

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        judged = self.value if self.ratio is None else self.ratio
        return judged >= self.target if self.at_least else judged <= self.target

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**dataclasses.asdict(self), "ratio": self.ratio, "met": self.met}

    def cells(self) -> tuple[str, ...]:
        """For the table."""
        against = ""
        if self.against is not None:
            against = f"{_number(self.against)} {self.unit}  {self.base}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}x"
        return (
            self.name,
            f"{_number(self.value)} {self.unit}",
            against,
            ratio,
            self._target_cell(),
            {True: "met", False: "MISSED", None: ""}[self.met],
        )

    def _target_cell(self) -> str:
        if self.target is None:
            return ""
        unit = f" {self.unit}" if self.ratio is None else "x"
        return f"{'>=' if self.at_least else '<='} {self.target:g}{unit}"


@dataclass(frozen=True)
class Section:
    """Results that belong together, and what a reader must know about them."""

    title: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(sections: Sequence[Section]) -> str:
    """All sections, with columns of the same width, and the targets counted."""
    every = [_HEADER, *(row.cells() for section in sections for row in section.rows)]
    widths = [max(len(cells[i]) for cells in every) for i in range(len(_HEADER))]
    parts = [_line(_HEADER, widths)]
    for section in sections:
        parts += ["", section.title]
        parts += [_line(row.cells(), widths) for row in section.rows]
        parts += [f"    {note}" for note in section.notes]
    judged = [row.met for section in sections for row in section.rows if row.met is not None]
    return "\n".join([*parts, "", f"{sum(judged)} of {len(judged)} targets met"])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, value, *rest = (
        cell.rjust(width) if column in (1, 3, 4) else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return f"  {'  '.join([name, value, *rest])}".rstrip()
