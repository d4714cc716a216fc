# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The command `epa-orchestrator`: the daemon, and what people ask of a running one."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from charms.epa_orchestrator.v0 import epa_client

from epa_daemon import __version__, settings, tables
from epa_daemon.errors import CannotStart
from epa_daemon.settings import Settings

# sysexits.h; the service manager and scripts tell the cases apart by these.
EXIT_REFUSED = 1
EXIT_UNAVAILABLE = 69
EXIT_NO_PERMISSION = 77
EXIT_CONFIG = 78

_POOLS = ("isolated", "general")
_POLICIES = ("legacy", "non-preemptive")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
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
            "--timeout", type=float, default=30.0, help="seconds to wait (default: 30)"
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
        "--cpu-pool",
        default="",
        metavar="LIST",
        help="CPUs of the general pool; empty or 'isolated' for none",
    )
    for option, (least, most) in settings.POLICY_LIMITS.items():
        parser.add_argument(
            f"--{option.removeprefix('policy.')}", metavar="N", help=f"{least} to {most}"
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
    _command(commands, "list", _list, "List who owns which CPUs, in both pools.")
    _command(commands, "hugepages", _hugepages, "Show hugepages and who they are recorded for.")
    _command(commands, "topology", _topology, "Show the host map and who owns each CPU.")
    _command(commands, "health", _health, "Show whether everything works (exit 1 if not).")


def _add_allocate(commands: Any) -> None:
    parser = _command(commands, "allocate", _allocate, "Allocate CPUs or hugepages.")
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
    parser.add_argument("--pool", choices=_POOLS, default="isolated")
    parser.add_argument("--preemption-policy", choices=_POLICIES)


def _add_release(commands: Any) -> None:
    parser = _command(commands, "release", _release, "Release CPUs or a hugepage record.")
    parser.add_argument("service")
    parser.add_argument("--numa-node", type=int, metavar="N", help="only in this node")
    parser.add_argument("--pool", choices=_POOLS, default="isolated")
    parser.add_argument("--hugepages", action="store_true", help="needs --numa-node and --size-kb")
    parser.add_argument("--size-kb", type=_positive, metavar="KB")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _usage(text: str) -> NoReturn:
    print(f"epa-orchestrator: {text}", file=sys.stderr)
    raise SystemExit(2)


def _daemon(options: argparse.Namespace) -> int:
    # Only here: the other commands answer in a third of the time without it.
    from epa_daemon import daemon
    from epa_daemon.replies import Problem

    if options.check:
        try:
            problems = daemon.check(_daemon_settings(options))
        except CannotStart as error:
            problems = [Problem(code="settings", text=str(error))]
        return _report_check([problem.model_dump() for problem in problems], options.format)
    chosen = _daemon_settings(options)
    logging.basicConfig(
        level=options.log_level.upper(), format="%(levelname)s %(message)s", stream=sys.stderr
    )
    daemon.run(chosen)
    return 0


def _daemon_settings(options: argparse.Namespace) -> Settings:
    numbers: dict[str, int] = {}
    for option in settings.POLICY_LIMITS:
        field = option.removeprefix("policy.").replace("-", "_")
        value = getattr(options, field)
        if value is not None:
            numbers[field] = settings.policy_number(option, value)
    return Settings(options.root, options.data, options.state, options.cpu_pool, **numbers)


def _report_check(problems: list[dict[str, Any]], style: str) -> int:
    if style == "json":
        print(json.dumps({"ok": not problems, "problems": problems}))
    elif problems:
        print("\n".join(f"{problem['text']} [{problem['code']}]" for problem in problems))
    else:
        print("ok")
    return EXIT_CONFIG if problems else 0


def _takeover(options: argparse.Namespace) -> int:
    from epa_daemon import daemon

    logging.basicConfig(level="INFO", format="%(levelname)s %(message)s", stream=sys.stderr)
    chosen = Settings(Path("/"), options.data, options.state)
    daemon.take_over(chosen, options.prefer)
    return 0


def _client(options: argparse.Namespace) -> epa_client.EpaClient:
    return epa_client.EpaClient(options.socket, options.timeout)


def _show(options: argparse.Namespace, reply: Any, text: str) -> int:
    print(json.dumps(reply, ensure_ascii=False, indent=2) if options.format == "json" else text)
    return 0


def _list(options: argparse.Namespace) -> int:
    client = _client(options)
    listings = [client.list_allocations()]
    try:
        if "cpu-pools" in listings[0].get("supported_cpu_features", []):
            listings.append(client.list_allocations(pool="general"))
    except epa_client.Refused as error:
        if error.code != "pool-not-configured":
            raise
    return _show(options, listings, tables.allocations(listings))


def _hugepages(options: argparse.Namespace) -> int:
    reply = _client(options).get_memory_info()
    return _show(options, reply, tables.hugepages(reply))


def _topology(options: argparse.Namespace) -> int:
    reply = _client(options).get_topology()
    return _show(options, reply, tables.topology(reply))


def _health(options: argparse.Namespace) -> int:
    reply = _client(options).get_health()
    _show(options, reply, tables.health(reply))
    return 0 if reply["healthy"] else EXIT_REFUSED


def _allocate(options: argparse.Namespace) -> int:
    client = _client(options)
    wanted = {"pool": options.pool, "preemption_policy": options.preemption_policy}
    if options.hugepages:
        if options.numa_node is None or options.size_kb is None:
            _usage("--hugepages needs --numa-node and --size-kb")
        reply = client.allocate_hugepages(
            options.service, options.hugepages, options.numa_node, options.size_kb
        )
    elif options.percent:
        if options.numa_node is not None:
            _usage("--percent is of the whole pool and takes no --numa-node")
        reply = client.allocate_cores_percent(options.service, options.percent, **wanted)
    elif options.numa_node is None:
        reply = client.allocate_cores(options.service, options.cores or 0, **wanted)
    elif options.auto:
        _usage("--auto is of the whole pool and takes no --numa-node")
    else:
        reply = client.allocate_numa_cores(
            options.service, options.numa_node, options.cores, **wanted
        )
    return _show(options, reply, tables.grant(reply))


def _release(options: argparse.Namespace) -> int:
    client = _client(options)
    if options.hugepages:
        if options.numa_node is None or options.size_kb is None:
            _usage("--hugepages needs --numa-node and --size-kb")
        reply = client.release_hugepages(options.service, options.numa_node, options.size_kb)
    elif options.numa_node is None:
        reply = client.release_cores(options.service, pool=options.pool)
    else:
        reply = client.release_numa_cores(options.service, options.numa_node, pool=options.pool)
    return _show(options, reply, tables.grant(reply))
