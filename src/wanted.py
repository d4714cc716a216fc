# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What a unit wants of its machine, and what was found to be in the way."""

import contextlib
import dataclasses
import enum
import logging
import pathlib
from collections.abc import Callable, Generator

import errors
import models

logger = logging.getLogger(__name__)


class Effort(enum.Enum):
    """How hard to try for another snap than the installed one, which is away for that long."""

    FULL = "try it, whatever became of the last try"
    AGAIN = "try it, unless snapd undid the last try"
    NONE = "leave the one that is installed"


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What this unit wants of its machine.

    Attributes:
        unit: name of the unit, for the snap's reference file.
        resource: fetches the attached snap; None if there is none. Raises errors.HealsItself.
        working: told what is being done, only when there is work that takes time.
    """

    unit: str
    config: models.CharmConfig
    resource: Callable[[], pathlib.Path | None]
    bundle: pathlib.Path
    effort: Effort
    working: Callable[[str], None]


@dataclasses.dataclass
class Findings:
    """Trouble found on the way; one kind keeps nobody from looking for the next."""

    blocked: list[str] = dataclasses.field(default_factory=list[str])
    waiting: list[str] = dataclasses.field(default_factory=list[str])

    @contextlib.contextmanager
    def collecting(self) -> Generator[None]:
        """Keep trouble for the status instead of raising it."""
        try:
            yield
        except errors.NeedsOperator as error:
            logger.error("%s", error)
            self.blocked.append(str(error))
        except errors.HealsItself as error:
            logger.warning("%s", error)
            self.waiting.append(str(error))
        except errors.DaemonSilent as error:
            logger.warning("%s", error)
            self.waiting.append("waiting for the daemon to answer")
