# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""People's commands: ask a running daemon through its socket, and print what it says."""

import argparse
import json
import sys
from typing import Any, NoReturn

from charms.epa_orchestrator.v0 import epa_client

from epa_daemon import recording, settings, tables

UNHEALTHY = 1
_PAGE = 1000


def _usage(text: str) -> NoReturn:
    print(f"epa-orchestrator: {text}", file=sys.stderr)
    raise SystemExit(2)


def _client(options: argparse.Namespace) -> epa_client.EpaClient:
    return epa_client.EpaClient(options.socket, options.timeout)


def _check_hugepages(options: argparse.Namespace) -> None:
    """Options that mean nothing together are refused: a typing error must not release CPUs."""
    if options.hugepages:
        if options.numa_node is None or options.size_kb is None:
            _usage("--hugepages needs --numa-node and --size-kb")
        if options.pool or getattr(options, "preemption_policy", None):
            _usage("hugepages have neither --pool nor --preemption-policy")
    elif options.size_kb is not None:
        _usage("--size-kb goes with --hugepages")


def _show(options: argparse.Namespace, reply: Any, text: str) -> int:
    print(json.dumps(reply, ensure_ascii=False, indent=2) if options.format == "json" else text)
    return 0


def list_(options: argparse.Namespace) -> int:
    """Run the command `list`."""
    client = _client(options)
    listings = [client.list_allocations()]
    try:
        if "cpu-pools" in listings[0].get("supported_cpu_features", []):
            listings.append(client.list_allocations(pool="general"))
    except epa_client.Refused as error:
        if error.code != "pool-not-configured":
            raise
    return _show(options, listings, tables.allocations(listings))


def hugepages(options: argparse.Namespace) -> int:
    """Run the command `hugepages`."""
    reply = _client(options).get_memory_info()
    return _show(options, reply, tables.hugepages(reply))


def topology(options: argparse.Namespace) -> int:
    """Run the command `topology`."""
    reply = _client(options).get_topology()
    return _show(options, reply, tables.topology(reply))


def health(options: argparse.Namespace) -> int:
    """Run the command `health`."""
    reply = _client(options).get_health()
    _show(options, reply, tables.health(reply))
    return 0 if reply["healthy"] else UNHEALTHY


def ovs(options: argparse.Namespace) -> int:
    """Run the command `ovs`."""
    reply = _client(options).get_ovs_affinity()
    return _show(options, reply, tables.ovs(reply))


def history(options: argparse.Namespace) -> int:
    """Run the command `history`: all pages, printed as they happened."""
    events: list[Any] = []
    before: int | None = None
    with _client(options) as client:
        while options.last is None or len(events) < options.last:
            reply = client.get_history(
                options.service, since=options.since, before=before, limit=_limit(options, events)
            )
            events += reply["events"]
            before = reply["next"]
            if before is None:
                break
    events.reverse()
    return _show(options, {"events": events}, tables.history(events))


def _limit(options: argparse.Namespace, events: list[Any]) -> int:
    return min(_PAGE, options.last - len(events)) if options.last else _PAGE


def record(options: argparse.Namespace) -> int:
    """Run the command `record`."""
    about = recording.record(
        options.folder, options.root, _client(options), settings.default_options_file()
    )
    if options.folder == "-":
        print(tables.recording("the archive", about), file=sys.stderr)
        return 0
    return _show(options, about, tables.recording(options.folder, about))


def allocate(options: argparse.Namespace) -> int:
    """Run the command `allocate`."""
    client = _client(options)
    _check_hugepages(options)
    pool = options.pool or "isolated"
    wanted = {"pool": pool, "preemption_policy": options.preemption_policy}
    if options.hugepages:
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


def release(options: argparse.Namespace) -> int:
    """Run the command `release`."""
    client = _client(options)
    _check_hugepages(options)
    pool = options.pool or "isolated"
    if options.hugepages:
        reply = client.release_hugepages(options.service, options.numa_node, options.size_kb)
    elif options.numa_node is None:
        reply = client.release_cores(options.service, pool=pool)
    else:
        reply = client.release_numa_cores(options.service, options.numa_node, pool=pool)
    return _show(options, reply, tables.grant(reply))
