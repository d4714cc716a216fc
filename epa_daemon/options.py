# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What an operator may set, and the file in which the accepted options are kept.

In the snap the options are snapd's, and the daemon reads the file: it starts without asking snapd,
which may be down, or busy with the very change that starts it.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from epa_daemon.errors import CannotStart
from epa_daemon.pools import GeneralPool, Rules
from epa_daemon.rights import Access

Prefer = Literal["old", "new"]

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

# Field of `Options` -> snap option.
ACCESS_FIELDS = {"access_uids": "access.uids", "access_gids": "access.gids"}
OWNERS = "policy.owners"
# The last one stands for "no user" in the kernel's interfaces.
_LARGEST_ID = 2**32 - 2
_MOST_IDS = 64
Ids = tuple[int, ...]
Owners = Literal["snap"]


@dataclass(frozen=True)
class Options:
    """What an operator may set.

    Attributes:
        cpu_pool: the general pool as configured, not judged yet; a text or one CPU id.
        takeover_prefer: whose word counts where an old state contradicts the ledger; None for
            nobody's, and then the daemon refuses to start.
        access_uids: users that may change allocations, besides root and the daemon's own.
        access_gids: groups whose members may.
        owners: whether snaps keep to the claims that they made.
    """

    cpu_pool: str | int | None = None
    small_system_percent: int = Rules.small_system_percent
    large_system_threshold: int = Rules.large_system_threshold
    large_system_reserved: int = Rules.large_system_reserved
    takeover_prefer: Prefer | None = None
    access_uids: Ids = ()
    access_gids: Ids = ()
    owners: Owners | None = None

    @property
    def access(self) -> Access:
        """Who may change what."""
        uids, gids = frozenset(self.access_uids), frozenset(self.access_gids)
        return Access(uids, gids, self.owners is not None)

    def rules(self, general: GeneralPool | None) -> Rules:
        """What decisions depend on, with the pool that `cpu_pool` has come to."""
        return Rules(
            general,
            self.small_system_percent,
            self.large_system_threshold,
            self.large_system_reserved,
        )


@dataclass(frozen=True)
class OptionsFile:
    """The accepted options, and beside them those that wait to be judged.

    Attributes:
        path: where accepted options are kept; None for nowhere, as outside the snap.
        flags: options of the command line by field of `Options`; they win over the file.
    """

    path: Path | None = None
    flags: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def kept(self) -> Options:
        """The accepted options; the defaults where none were accepted yet.

        Raises:
            CannotStart: the file is there and is not what `keep` writes.
        """
        return self._with_flags(self.path and _read(self.path))

    def offered(self) -> Options:
        """The options that wait to be judged, or else the accepted ones.

        Raises:
            CannotStart: as `kept`.
        """
        return self._with_flags(self.path and (_read(self._offer(self.path)) or _read(self.path)))

    def _with_flags(self, found: Options | None) -> Options:
        return replace(found or Options(), **self.flags)

    def offer(self, options: Options) -> None:
        """Put options where a daemon that is told to reload finds them."""
        assert self.path
        _write(self._offer(self.path), options)

    def accept(self) -> None:
        """Keep what was offered, if anything was; durably."""
        if self.path and self._offer(self.path).exists():
            self._offer(self.path).replace(self.path)
            _sync(self.path.parent)

    def withdraw(self) -> None:
        """Take back what was offered and not accepted."""
        assert self.path
        self._offer(self.path).unlink(missing_ok=True)

    def keep(self, options: Options) -> None:
        """Keep options in the file, whole or not at all, and durably."""
        self.offer(options)
        self.accept()

    @staticmethod
    def _offer(path: Path) -> Path:
        return path.with_name(f"{path.name}.new")


def _read(path: Path) -> Options | None:
    try:
        content: Any = json.loads(path.read_bytes())
        numbers = {
            name: policy_number(option, content[name]) for name, option in POLICY_FIELDS.items()
        }
        # Absent in a file of an older daemon.
        lists: dict[str, Any] = {
            name: ids(option, content.get(name)) for name, option in ACCESS_FIELDS.items()
        }
        return Options(
            content["cpu_pool"],
            takeover_prefer=prefer(content),
            owners=owners(content.get("owners")),
            **numbers,
            **lists,
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, CannotStart) as error:
        raise CannotStart(
            f"the options file {path} cannot be used: {error}; write it anew: "
            "snap set epa-orchestrator policy.small-system-percent=80"
        ) from error


def _write(path: Path, options: Options) -> None:
    with path.open("w") as file:
        json.dump(asdict(options), file)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def prefer(content: Mapping[str, Any]) -> Prefer | None:
    """Read `takeover_prefer`.

    Raises:
        CannotStart: it is neither old nor new.
    """
    value = content.get("takeover_prefer")
    if value not in ("old", "new", None):
        raise CannotStart(f"Invalid takeover.prefer: {json.dumps(value)} is not old or new")
    return value


def owners(value: object) -> Owners | None:
    """Read `policy.owners`.

    Raises:
        CannotStart: it is not snap.
    """
    if value not in ("snap", None):
        raise CannotStart(f"Invalid {OWNERS}: {json.dumps(value)} is not snap")
    return "snap" if value else None


def ids(option: str, value: object) -> Ids:
    """Read a list of user or group numbers: one, several by commas, or a list of them.

    Raises:
        CannotStart: it is no such list.
    """
    parts = value.split(",") if isinstance(value, str) else value
    listed = cast("list[object]", parts) if isinstance(parts, list) else [parts]
    if value is None or value in ("", []):
        return ()
    found = {_id(option, part) for part in listed}
    if len(found) > _MOST_IDS:
        raise CannotStart(f"Invalid {option}: more than {_MOST_IDS} numbers")
    return tuple(sorted(found))


def _id(option: str, value: object) -> int:
    shown = value if isinstance(value, str) else json.dumps(value)
    digits = shown.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 12):
        digits = "-1"
    if not 0 <= int(digits) <= _LARGEST_ID:
        raise CannotStart(
            f"Invalid {option}: '{shown}' is not a list of numbers such as 1000,1001"
        )
    return int(digits)


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
