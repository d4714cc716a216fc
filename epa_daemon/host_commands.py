# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The commands that work on this host's files: the daemon, and the recovery of its state.

What they need of the daemon is imported when they run: the other commands answer in a third of
the time without it.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from charms.epa_orchestrator.v0 import epa_client

from epa_daemon import logs, options, settings
from epa_daemon.errors import CannotStart
from epa_daemon.options import OptionsFile
from epa_daemon.settings import Settings

EXIT_REFUSED = 1
EXIT_CONFIG = 78


def command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    """A parser for one command, with what they all have."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
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


def add_daemon(commands: Any) -> None:
    """Add `daemon` and `takeover`."""
    _add_takeover(commands)
    parser = command(commands, "daemon", _daemon, "Run the daemon.")
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
    for option in options.ACCESS_FIELDS.values():
        whom = "users" if option == "access.uids" else "members of groups"
        parser.add_argument(
            f"--{option.replace('.', '-')}",
            metavar="LIST",
            help=f"{whom} that may change allocations besides root, by number: 1000,1001",
        )
    parser.add_argument(
        "--owners",
        metavar="snap",
        help="what a snap has claimed is changed only by that snap, and by root outside snaps",
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
    parser = command(
        commands,
        "takeover",
        _takeover,
        "Import an old state.json that contradicts the ledger (with the daemon stopped).",
    )
    _add_folders(parser)
    parser.add_argument(
        "--prefer",
        choices=("old", "new"),
        required=True,
        help="whose word counts where both name an owner: the old file's or the ledger's",
    )


def add_recovery(commands: Any) -> None:
    """Add `backup`, `restore`, `verify` and `repair`."""
    text = "Save the store in a new file, whether the daemon runs or not."
    parser = command(commands, "backup", _backup, text)
    _add_folders(parser)
    parser.add_argument("file", metavar="FILE", help="made by this command; - for standard output")
    text = "Put a backup in the place of the store (with the daemon stopped)."
    parser = command(commands, "restore", _restore, text)
    _add_folders(parser)
    parser.add_argument("file", metavar="FILE", help="the backup; - for standard input")
    parser.add_argument(
        "--discard-claims",
        action="store_true",
        help="forget claims of the present store that the backup does not have",
    )
    text = "Check the store, the ledger in it, and the host against it (exit 1 if not sound)."
    parser = command(commands, "verify", _verify, text)
    _add_folders(parser)
    parser.add_argument(
        "--root", type=Path, default=Path("/"), help="host tree to read (default: /)"
    )
    parser.add_argument(
        "--options-file", type=Path, default=settings.default_options_file(), metavar="FILE"
    )
    text = "Release a service whose name no request can carry (with the daemon stopped)."
    parser = command(commands, "repair", _repair, text)
    _add_folders(parser)
    parser.add_argument(
        "--release", required=True, metavar="NAME", help="its name in JSON, as verify shows it"
    )


def _daemon(asked: argparse.Namespace) -> int:
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
    for field, option in options.ACCESS_FIELDS.items():
        value = getattr(asked, field)
        if value is not None:
            flags[field] = options.ids(option, value)
    if asked.owners is not None:
        flags["owners"] = options.owners(asked.owners or None)
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
    from epa_daemon import daemon, ownership

    logs.configure("info")
    chosen = Settings(Path("/"), asked.data, asked.state)
    with ownership.handed_over(asked.state):
        there = daemon.take_over(chosen, asked.prefer)
    if not there:
        print(f"there is no old state in {asked.data}; nothing to do")
    return 0


def _require_access(state: Path) -> None:
    """Tell somebody who may not enter the folder so, and not that it is damaged or missing.

    Raises:
        epa_client.NotPermitted: they may not.
    """
    try:
        os.stat(state / "lock")
    except PermissionError as error:
        raise epa_client.NotPermitted(f"no permission to enter {state}") from error
    except OSError:
        return


def _backup(asked: argparse.Namespace) -> int:
    from epa_daemon import backups

    _require_access(asked.state)
    size = backups.write(asked.state, asked.data / settings.SOCKET_NAME, asked.file)
    if asked.file != backups.STANDARD:
        _print(asked, {"file": asked.file, "size": size}, f"saved {size} bytes in {asked.file}")
    return 0


def _restore(asked: argparse.Namespace) -> int:
    from epa_daemon import lost_folder, ownership, restoring, tables

    _require_access(asked.state)
    lost_folder.refuse(asked.state, asked.data / settings.SOCKET_NAME)
    with ownership.handed_over(asked.state):
        done = restoring.restore(asked.state, asked.file, asked.discard_claims)
    reply = {
        "services": done.services,
        "kept": str(done.kept) if done.kept else None,
        "forgotten": list(done.forgotten),
        "not_compared": done.unknown,
    }
    _print(asked, reply, tables.restored(reply))
    return 0


def _verify(asked: argparse.Namespace) -> int:
    from epa_daemon import inspection, tables

    _require_access(asked.state)
    kept = OptionsFile(asked.options_file)
    chosen = Settings(asked.root, asked.data, asked.state, kept)
    found = inspection.verify(chosen)
    reply = {
        "sound": not found.problems,
        "daemon": "running" if found.daemon else "stopped",
        "state": str(asked.state),
        "services": found.services,
        "claimed_cpus": found.claimed_cpus,
        "problems": [problem.model_dump() for problem in found.problems],
    }
    _print(asked, reply, tables.verdict(reply))
    return EXIT_REFUSED if found.problems else 0


def _repair(asked: argparse.Namespace) -> int:
    from epa_daemon import inspection, lost_folder, ownership

    _require_access(asked.state)
    lost_folder.refuse(asked.state, asked.data / settings.SOCKET_NAME)
    with ownership.handed_over(asked.state):
        inspection.release_unusable(asked.state, asked.release)
    _print(asked, {"released": json.loads(asked.release)}, f"released {asked.release}")
    return 0


def _print(asked: argparse.Namespace, reply: dict[str, Any], text: str) -> None:
    print(json.dumps(reply, ensure_ascii=False, indent=2) if asked.format == "json" else text)
