# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The command `epa-orchestrator`: the daemon, and what people ask of a running one."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charms.epa_orchestrator.v0 import epa_client

from epa_daemon import __version__, logs, options, settings
from epa_daemon import commands as people
from epa_daemon.errors import CannotStart
from epa_daemon.options import OptionsFile
from epa_daemon.settings import Settings

# sysexits.h; the service manager and scripts tell the cases apart by these.
EXIT_REFUSED = 1
EXIT_INTERRUPTED = 130
EXIT_UNAVAILABLE = 69
EXIT_NO_PERMISSION = 77
EXIT_CONFIG = 78

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
    _add_daemon(commands)
    _add_takeover(commands)
    _add_reads(commands)
    _add_record(commands)
    _add_allocate(commands)
    _add_release(commands)
    return parser


def _command(
    commands: Any, name: str, run: Any, text: str, socket: bool = True
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    if socket:
        parser.add_argument(
            "--socket",
            default=str(settings.default_socket()),
            help="the daemon's socket (default: %(default)s)",
        )
        parser.add_argument(
            "--timeout", type=_seconds, default=30.0, help="seconds to wait (default: 30)"
        )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    return parser


def _add_folders(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=Path,
        default=settings.default_data(),
        help="shared folder with the socket (default: %(default)s)",
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=settings.default_state(),
        help="folder of the store (default: %(default)s)",
    )


def _add_daemon(commands: Any) -> None:
    parser = _command(commands, "daemon", _daemon, "Run the daemon.", socket=False)
    _add_folders(parser)
    parser.add_argument(
        "--root", type=Path, default=Path("/"), help="host tree to read (default: /)"
    )
    parser.add_argument(
        "--options-file",
        type=Path,
        default=settings.default_options_file(),
        metavar="FILE",
        help="where accepted options are kept (default: %(default)s); the options below win",
    )
    parser.add_argument(
        "--cpu-pool",
        metavar="LIST",
        help="CPUs of the general pool; empty or 'isolated' for none",
    )
    for option, (least, most) in options.POLICY_LIMITS.items():
        parser.add_argument(
            f"--{option.removeprefix('policy.')}", metavar="N", help=f"{least} to {most}"
        )
    parser.add_argument(
        "--ovs-switch",
        type=Path,
        default=settings.OVS_SWITCH,
        metavar="FILE",
        help="any content switches Open vSwitch's CPU affinity on (default: %(default)s)",
    )
    parser.add_argument(
        "--check", action="store_true", help="check settings and state, change nothing, and exit"
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info"
    )


def _add_takeover(commands: Any) -> None:
    parser = _command(
        commands,
        "takeover",
        _takeover,
        "Import an old state.json that contradicts the ledger (with the daemon stopped).",
        socket=False,
    )
    _add_folders(parser)
    parser.add_argument(
        "--prefer",
        choices=("old", "new"),
        required=True,
        help="whose word counts where both name an owner: the old file's or the ledger's",
    )


def _add_reads(commands: Any) -> None:
    _command(commands, "list", people.list_, "List who owns which CPUs, in both pools.")
    _command(
        commands, "hugepages", people.hugepages, "Show hugepages and who they are recorded for."
    )
    _command(commands, "topology", people.topology, "Show the host map and who owns each CPU.")
    _command(commands, "ovs", people.ovs, "Show where Open vSwitch's threads may run, and should.")
    _command(commands, "health", people.health, "Show whether everything works (exit 1 if not).")


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


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _daemon(asked: argparse.Namespace) -> int:
    # Only here: the other commands answer in a third of the time without it.
    from epa_daemon import daemon, preflight
    from epa_daemon.replies import Problem

    if asked.check:
        try:
            problems = preflight.check(_daemon_settings(asked))
        except CannotStart as error:
            problems = [Problem(code="settings", text=str(error))]
        return _report_check([problem.model_dump() for problem in problems], asked.format)
    chosen = _daemon_settings(asked)
    logs.configure(asked.log_level)
    daemon.run(chosen)
    return 0


def _daemon_settings(asked: argparse.Namespace) -> Settings:
    flags: dict[str, Any] = {}
    for field, option in options.POLICY_FIELDS.items():
        value = getattr(asked, field)
        if value is not None:
            flags[field] = options.policy_number(option, value)
    if asked.cpu_pool is not None:
        flags["cpu_pool"] = asked.cpu_pool or None
    kept = OptionsFile(asked.options_file, flags)
    switch = asked.ovs_switch.absolute()
    return Settings(asked.root, asked.data, asked.state, kept, switch)


def _report_check(problems: list[dict[str, Any]], style: str) -> int:
    if style == "json":
        print(json.dumps({"ok": not problems, "problems": problems}))
    elif problems:
        print("\n".join(f"{problem['text']} [{problem['code']}]" for problem in problems))
    else:
        print("ok")
    return EXIT_CONFIG if problems else 0


def _takeover(asked: argparse.Namespace) -> int:
    from epa_daemon import daemon

    logs.configure("info")
    chosen = Settings(Path("/"), asked.data, asked.state)
    if not daemon.take_over(chosen, asked.prefer):
        print(f"there is no old state in {asked.data}; nothing to do")
    return 0
