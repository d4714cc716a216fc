# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The command `epa-orchestrator`: the daemon, and what people ask of a running one."""

import argparse
import datetime
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charms.epa_orchestrator.v0 import epa_client

from epa_daemon import __version__, history, host_commands, settings
from epa_daemon import commands as people
from epa_daemon.errors import CannotStart, NotDone
from epa_daemon.host_commands import EXIT_CONFIG, EXIT_REFUSED

# sysexits.h; the service manager and scripts tell the cases apart by these.
EXIT_INTERRUPTED = 130
EXIT_UNAVAILABLE = 69
EXIT_NO_PERMISSION = 77

_POOLS = ("isolated", "general")
_POLICIES = ("legacy", "non-preemptive")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    asked = _parser().parse_args(arguments)
    try:
        code = asked.run(asked)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (head, a pager) has seen enough; nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except CannotStart as error:
        print(f"epa-orchestrator: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except NotDone as error:
        return _fail(EXIT_REFUSED, str(error))
    except epa_client.NotRunning as error:
        return _fail(
            EXIT_UNAVAILABLE,
            f"{error}; start it: snap start epa-orchestrator.daemon "
            "(or name another socket with --socket)",
        )
    except epa_client.NotPermitted as error:
        return _fail(EXIT_NO_PERMISSION, f"{error}; try again as root (sudo)")
    except epa_client.NoReply as error:
        return _fail(EXIT_UNAVAILABLE, f"{error}; look at: snap logs epa-orchestrator.daemon")
    except epa_client.Refused as error:
        return _fail(EXIT_REFUSED, f"refused: {error}{f' [{error.code}]' if error.code else ''}")


def _fail(code: int, text: str) -> int:
    print(f"epa-orchestrator: {text}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="epa-orchestrator",
        description="Hands out isolated CPUs and hugepages of this host, exclusively.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    host_commands.add_daemon(commands)
    _add_reads(commands)
    _add_history(commands)
    _add_record(commands)
    _add_allocate(commands)
    _add_release(commands)
    host_commands.add_recovery(commands)
    return parser


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser = host_commands.command(commands, name, run, text)
    parser.add_argument(
        "--socket",
        default=str(settings.default_socket()),
        help="the daemon's socket (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout", type=_seconds, default=30.0, help="seconds to wait (default: 30)"
    )
    return parser


def _add_reads(commands: Any) -> None:
    _command(commands, "list", people.list_, "List who owns which CPUs, in both pools.")
    _command(
        commands, "hugepages", people.hugepages, "Show hugepages and who they are recorded for."
    )
    _command(commands, "topology", people.topology, "Show the host map and who owns each CPU.")
    _command(commands, "ovs", people.ovs, "Show where Open vSwitch's threads may run, and should.")
    _command(commands, "health", people.health, "Show whether everything works (exit 1 if not).")


def _add_history(commands: Any) -> None:
    parser = _command(
        commands, "history", people.history, "Show who got, lost and released what, and when."
    )
    parser.add_argument("--service", metavar="NAME", help="of this service only")
    parser.add_argument(
        "--since",
        type=_since,
        metavar="WHEN",
        help="a time (ISO 8601, UTC unless it says otherwise), or an age such as 2h or 3d",
    )
    parser.add_argument(
        "--last", type=_positive, metavar="N", help="so many at most, the newest ones"
    )


def _add_record(commands: Any) -> None:
    parser = _command(
        commands,
        "record",
        people.record,
        "Record this host's shape and the daemon's answers in a folder, for a bug report or for "
        "`daemon --root`.",
    )
    parser.add_argument(
        "folder",
        metavar="DIR",
        help="made by this command; - for a tar archive on stdout",
    )
    parser.add_argument(
        "--root", type=Path, default=Path("/"), help="host tree to record (default: /)"
    )


def _add_allocate(commands: Any) -> None:
    parser = _command(commands, "allocate", people.allocate, "Allocate CPUs or hugepages.")
    parser.add_argument("service")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--cores", type=_positive, metavar="N", help="this many CPUs")
    what.add_argument(
        "--auto", action="store_true", help="as many CPUs as the daemon's rule gives"
    )
    what.add_argument("--percent", type=_positive, metavar="N", help="a share of the pool")
    what.add_argument("--hugepages", type=_positive, metavar="N", help="this many pages")
    parser.add_argument("--numa-node", type=int, metavar="N", help="with --cores or --hugepages")
    parser.add_argument("--size-kb", type=_positive, metavar="KB", help="with --hugepages")
    parser.add_argument("--pool", choices=_POOLS, help="default: isolated")
    parser.add_argument("--preemption-policy", choices=_POLICIES)


def _add_release(commands: Any) -> None:
    parser = _command(commands, "release", people.release, "Release CPUs or a hugepage record.")
    parser.add_argument("service")
    parser.add_argument("--numa-node", type=int, metavar="N", help="only in this node")
    parser.add_argument("--pool", choices=_POOLS, help="default: isolated")
    parser.add_argument("--hugepages", action="store_true", help="needs --numa-node and --size-kb")
    parser.add_argument("--size-kb", type=_positive, metavar="KB")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of seconds above 0")
    return seconds


def _since(text: str) -> str:
    try:
        return history.since(text, datetime.datetime.now(datetime.UTC))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)
