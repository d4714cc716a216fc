# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What is wrong, look by look: each fact is logged once, and shown as long as it holds."""

import logging

logger = logging.getLogger(__name__)


class Problems:
    """The problems of something that is looked at again and again."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._noted: dict[str, str] = {}

    @property
    def texts(self) -> list[str]:
        """What is wrong now, a sentence each."""
        return list(self._shown.values())

    def start(self) -> None:
        """A new look: what is not noted in it has passed."""
        self._noted = {}

    def note(self, key: str, text: str) -> None:
        """Something is wrong; under one key only the first text of a look counts."""
        if key not in self._shown and key not in self._noted:
            logger.warning("%s", text)
        self._noted.setdefault(key, self._shown.get(key, text))
        self._shown = {**self._shown, key: self._noted[key]}

    def finish(self) -> None:
        """The look is over."""
        self._shown = self._noted
