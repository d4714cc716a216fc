# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What can be wrong, told apart by who has to act."""


class Trouble(Exception):
    """Base of what keeps the machine from being as it should; one line for the status."""


class NeedsOperator(Trouble):
    """Stays wrong until somebody acts; the text says what to do."""


class HealsItself(Trouble):
    """Ends without anybody's doing; the next hook looks again."""


class DaemonSilent(Exception):
    """The daemon gave no answer, or none that can be understood."""


class ActionFailed(Exception):
    """An action could not do what it was asked; the text is for who asked."""
