# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The file that switches Open vSwitch's CPU affinity on: any content is on, none is off.

The daemon follows it as it comes and goes. Operators may write it by hand: a file that does not
have this charm's words is theirs, and is left alone.
"""

import contextlib
import logging
import pathlib

import errors

logger = logging.getLogger(__name__)

FILE = pathlib.Path("/etc/openvswitch/enable_dynamic_cpu_affinity")
_WORDS = "written by the charm epa-orchestrator (option ovs-dynamic-cpu-affinity)\n"


def apply(wanted: bool) -> None:
    """Write the file, or remove the one that this charm wrote.

    Raises:
        errors.NeedsOperator: something stands in its place, or it cannot be written or removed.
    """
    try:
        if wanted:
            _switch_on()
        elif _is_ours():
            logger.info("removing %s", FILE)
            FILE.unlink()
            # Open vSwitch keeps files of its own there; an empty folder was made by this charm.
            with contextlib.suppress(OSError):
                FILE.parent.rmdir()
    except OSError as error:
        raise errors.NeedsOperator(f"cannot switch Open vSwitch's affinity: {error}") from error


def _is_ours() -> bool:
    """Whether this charm wrote it; whatever cannot be read as a file is somebody else's."""
    try:
        return FILE.read_bytes() == _WORDS.encode()
    except OSError:
        return False


def _switch_on() -> None:
    with contextlib.suppress(FileNotFoundError):
        if FILE.read_bytes():
            return
    logger.info("writing %s", FILE)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    new = FILE.with_name(f".{FILE.name}.new")
    new.write_text(_WORDS)
    new.replace(FILE)
