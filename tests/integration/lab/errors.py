# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What can go wrong in the lab, by what the reader can do about it."""


class LabError(Exception):
    """The lab could not do what a test asked of it."""


class MissingNeeds(LabError):
    """The host lacks something; the message names the packages that bring it."""


class BuildFailed(LabError):
    """A program that builds a cached artefact failed."""


class BootFailed(LabError):
    """A machine did not come up; the message ends with its console's last lines."""


class CommandFailed(LabError):
    """A command in a machine returned another code than 0."""


class CommandTimedOut(LabError):
    """A command in a machine was killed because its time was over."""


class MachineLost(LabError):
    """The machine ended, or its agent no longer answers."""
