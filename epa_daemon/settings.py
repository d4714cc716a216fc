# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What the daemon runs with: folders, by environment, and where its options are."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from epa_daemon.options import OptionsFile

OVS_SWITCH = Path("/etc/openvswitch/enable_dynamic_cpu_affinity")
SOCKET_NAME = "epa.sock"
SNAP_SOCKET = Path("/var/snap/epa-orchestrator/current/data") / SOCKET_NAME


@dataclass(frozen=True)
class Settings:
    """What the daemon was asked to run with.

    Attributes:
        root: the host tree to read; / is this host.
        data: the shared folder, with the socket and nothing else.
        state: the folder of the store, which clients cannot reach.
        options: where the options that decisions depend on are found.
        ovs_switch: the file that switches Open vSwitch's CPU affinity on.
    """

    root: Path
    data: Path
    state: Path
    options: OptionsFile = OptionsFile()  # noqa: RUF009 - it is frozen.
    ovs_switch: Path = OVS_SWITCH

    @property
    def socket(self) -> Path:
        """Where the daemon listens."""
        return self.data / SOCKET_NAME


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


def default_options_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The snap's: in the folder that a revert restores, as snapd restores the options."""
    return Path(environment["SNAP_DATA"], "options.json") if "SNAP_DATA" in environment else None


def default_socket(environment: Mapping[str, str] = os.environ) -> Path:
    """Where people's commands look: this user's own daemon if there is one, else the snap's."""
    own = default_data(environment) / SOCKET_NAME
    # os.path: a home that this user may not enter (sudo -u keeps HOME) is no reason to fail.
    return own if "SNAP_DATA" in environment or os.path.exists(own) else SNAP_SOCKET
