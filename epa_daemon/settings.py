# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The daemon's settings: defaults by environment, and the limits of the policy numbers."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from epa_daemon.errors import CannotStart
from epa_daemon.pools import GeneralPool, Rules

SOCKET_NAME = "epa.sock"
SNAP_SOCKET = Path("/var/snap/epa-orchestrator/current/data") / SOCKET_NAME

# Snap option -> least and largest value (contract, part 7).
POLICY_LIMITS = {
    "policy.small-system-percent": (1, 100),
    "policy.large-system-threshold": (1, 65536),
    "policy.large-system-reserved": (0, 65535),
}


@dataclass(frozen=True)
class Settings:
    """What the daemon was asked to run with.

    Attributes:
        root: the host tree to read; / is this host.
        data: the shared folder, with the socket and nothing else.
        state: the folder of the store, which clients cannot reach.
        cpu_pool: the general pool as configured, not validated yet.
    """

    root: Path
    data: Path
    state: Path
    cpu_pool: str = ""
    small_system_percent: int = 80
    large_system_threshold: int = 100
    large_system_reserved: int = 16

    @property
    def socket(self) -> Path:
        """Where the daemon listens."""
        return self.data / SOCKET_NAME

    def rules(self, general: GeneralPool | None) -> Rules:
        """The part of the settings that decisions depend on."""
        return Rules(
            general,
            self.small_system_percent,
            self.large_system_threshold,
            self.large_system_reserved,
        )


def policy_number(option: str, value: str) -> int:
    """Read one of the policy numbers.

    Raises:
        CannotStart: it is not a whole number within its limits.
    """
    least, most = POLICY_LIMITS[option]
    digits = value.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 10):
        digits = "-1"
    if not least <= int(digits) <= most:
        raise CannotStart(
            f"Invalid {option}: '{value}' is not a whole number from {least} to {most}"
        )
    return int(digits)


def default_data(environment: Mapping[str, str] = os.environ) -> Path:
    """The shared folder: the snap's, else one of the user's runtime folder (XDG)."""
    if "SNAP_DATA" in environment:
        return Path(environment["SNAP_DATA"], "data")
    if environment.get("XDG_RUNTIME_DIR"):
        return Path(environment["XDG_RUNTIME_DIR"], "epa-orchestrator")
    if os.geteuid() == 0:
        return Path("/run/epa-orchestrator")
    return default_state(environment) / "run"


def default_state(environment: Mapping[str, str] = os.environ) -> Path:
    """The state folder: the snap's, which a revert leaves alone, else the user's (XDG)."""
    if "SNAP_COMMON" in environment:
        return Path(environment["SNAP_COMMON"], "state")
    if "SNAP_DATA" in environment:
        return Path(environment["SNAP_DATA"], "state")
    home = environment.get("XDG_STATE_HOME")
    if not home:
        # Not Path.home(): it raises for a user without a home, who may still name a --socket.
        home = os.path.expanduser("~/.local/state")
    return Path(home if os.path.isabs(home) else "/var/lib", "epa-orchestrator")


def default_socket(environment: Mapping[str, str] = os.environ) -> Path:
    """Where people's commands look: this user's own daemon if there is one, else the snap's."""
    own = default_data(environment) / SOCKET_NAME
    # os.path: a home that this user may not enter (sudo -u keeps HOME) is no reason to fail.
    return own if "SNAP_DATA" in environment or os.path.exists(own) else SNAP_SOCKET
