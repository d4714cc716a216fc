# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The daemon's settings: folders by environment, and the options that decisions depend on.

In the snap the options are snapd's, and the configure hook keeps the accepted ones in a file:
the daemon starts without asking snapd, which may be down or busy with this very change.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from epa_daemon.errors import CannotStart
from epa_daemon.pools import GeneralPool, Rules

OVS_SWITCH = Path("/etc/openvswitch/enable_dynamic_cpu_affinity")
SOCKET_NAME = "epa.sock"
SNAP_SOCKET = Path("/var/snap/epa-orchestrator/current/data") / SOCKET_NAME

# Snap option -> least and largest value (contract, part 7).
POLICY_LIMITS = {
    "policy.small-system-percent": (1, 100),
    "policy.large-system-threshold": (1, 65536),
    "policy.large-system-reserved": (0, 65535),
}
# Field of `Options` -> snap option.
POLICY_FIELDS = {
    option.removeprefix("policy.").replace("-", "_"): option for option in POLICY_LIMITS
}


@dataclass(frozen=True)
class Options:
    """What an operator may set: the snap's options, by their names on the socket.

    Attributes:
        cpu_pool: the general pool as configured, not validated yet; a text or one CPU id.
    """

    cpu_pool: str | int | None = None
    small_system_percent: int = 80
    large_system_threshold: int = 100
    large_system_reserved: int = 16

    def rules(self, general: GeneralPool | None) -> Rules:
        """What decisions depend on, with the pool that `cpu_pool` has come to."""
        return Rules(
            general,
            self.small_system_percent,
            self.large_system_threshold,
            self.large_system_reserved,
        )


@dataclass(frozen=True)
class Settings:
    """What the daemon was asked to run with.

    Attributes:
        root: the host tree to read; / is this host.
        data: the shared folder, with the socket and nothing else.
        state: the folder of the store, which clients cannot reach.
        options_file: where the accepted options are kept, None for nowhere.
        flags: options of the command line by field of `Options`; they win over the file.
        ovs_switch: the file that switches Open vSwitch's CPU affinity on.
    """

    root: Path
    data: Path
    state: Path
    options_file: Path | None = None
    flags: Mapping[str, Any] = field(default_factory=dict[str, Any])
    ovs_switch: Path = OVS_SWITCH

    @property
    def socket(self) -> Path:
        """Where the daemon listens."""
        return self.data / SOCKET_NAME

    def options(self) -> Options:
        """The options that hold now.

        Raises:
            CannotStart: the file is there and is not what the configure hook writes.
        """
        kept = read_options(self.options_file) if self.options_file else Options()
        return replace(kept, **self.flags)


def read_options(path: Path) -> Options:
    """The options kept in a file; the defaults where there is none.

    Raises:
        CannotStart: it is there and is not what `write_options` writes.
    """
    try:
        content: Any = json.loads(path.read_bytes())
        numbers = {
            name: policy_number(option, content[name]) for name, option in POLICY_FIELDS.items()
        }
        return Options(content["cpu_pool"], **numbers)
    except FileNotFoundError:
        return Options()
    except (OSError, ValueError, LookupError, TypeError, CannotStart) as error:
        raise CannotStart(
            f"the options file {path} cannot be used: {error}; write it anew: "
            "snap set epa-orchestrator policy.small-system-percent=80"
        ) from error


def write_options(path: Path, options: Options) -> None:
    """Keep options in a file, whole or not at all, and durably."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w") as file:
        json.dump(asdict(options), file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def policy_number(option: str, value: object) -> int:
    """Read one of the policy numbers: an integer, or the decimal digits of one.

    Raises:
        CannotStart: it is not a whole number within its limits.
    """
    least, most = POLICY_LIMITS[option]
    shown = value if isinstance(value, str) else json.dumps(value)
    digits = shown.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 10):
        digits = "-1"
    if not least <= int(digits) <= most:
        raise CannotStart(
            f"Invalid {option}: '{shown}' is not a whole number from {least} to {most}"
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


def default_options_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The snap's: in the folder that a revert restores, as snapd restores the options."""
    return Path(environment["SNAP_DATA"], "options.json") if "SNAP_DATA" in environment else None


def default_socket(environment: Mapping[str, str] = os.environ) -> Path:
    """Where people's commands look: this user's own daemon if there is one, else the snap's."""
    own = default_data(environment) / SOCKET_NAME
    # os.path: a home that this user may not enter (sudo -u keeps HOME) is no reason to fail.
    return own if "SNAP_DATA" in environment or os.path.exists(own) else SNAP_SOCKET
