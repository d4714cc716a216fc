# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""From replies to text for people. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

Reply = dict[str, Any]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Columns as wide as their longest cell."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = (
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def allocations(listings: Sequence[Reply]) -> str:
    """The owners of every pool, and a line for each pool."""
    rows = [
        (
            entry["service_name"],
            listing.get("pool", "isolated"),
            entry["allocated_cores"],
            entry["cores_count"],
            entry.get("preemption_policy", "legacy"),
            "NUMA" if entry["is_explicit"] else "count",
        )
        for listing in listings
        for entry in listing["allocations"]
    ]
    parts = [table(("SERVICE", "POOL", "CPUS", "COUNT", "POLICY", "CLAIM"), rows)] if rows else []
    return "\n\n".join([*parts, "\n".join(_pool_line(listing) for listing in listings)])


def _pool_line(listing: Reply) -> str:
    name = listing.get("pool", "isolated")
    total, free = listing["total_available_cpus"], listing["remaining_available_cpus"]
    if not total and not listing["allocations"]:
        return f"{name}: no CPUs"
    pool = listing.get("cpu_pool", {})
    eligible = pool.get("eligible_cpus", "")
    line = f"{name}: {total} CPUs{f' ({eligible})' if eligible else ''}, {free} free"
    unavailable = pool.get("unavailable_allocated_cpus")
    return f"{line}; held but unavailable: {unavailable}" if unavailable else line


def hugepages(reply: Reply) -> str:
    """Capacity and records of every node and size."""
    nodes: dict[str, Any] = reply["numa_hugepages"]
    rows = [
        (
            node.removeprefix("node"),
            _size(count["size"]),
            count["total"],
            count["free"],
            ", ".join(
                f"{service} {sizes[str(count['size'])]}"
                for service, sizes in info["allocations"].items()
                if str(count["size"]) in sizes
            )
            or "-",
        )
        for node, info in nodes.items()
        for count in info["capacity"]
    ]
    if not rows:
        return "no hugepages on this host"
    return table(("NODE", "SIZE", "TOTAL", "FREE", "HELD BY"), rows)


def _size(kilobytes: int) -> str:
    for unit, factor in (("G", 1 << 20), ("M", 1 << 10)):
        if kilobytes % factor == 0:
            return f"{kilobytes // factor}{unit}"
    return f"{kilobytes}k"


def topology(reply: Reply) -> str:
    """The host map: a line for each core, with the owner of each of its threads."""
    nodes: dict[int | None, list[Reply]] = {node["node"]: [] for node in reply["nodes"]}
    for cpu in reply["cpus"]:
        nodes.setdefault(cpu["node"], []).append(cpu)
    general = reply["general"]
    lines = [
        f"online {reply['online'] or '-'}; isolated {reply['isolated'] or '-'}; "
        f"general {'-' if general is None else general or '(no CPUs)'}"
    ]
    rows = [
        (title, package, core, *threads)
        for node, cpus in nodes.items()
        for title, package, core, threads in _cores(node, cpus)
    ]
    width = max((len(row) for row in rows), default=3)
    header = ("NODE", "SOCKET", "CORE", "THREADS", *[""] * (width - 4))
    padded = [(*row, *[""] * (len(header) - len(row))) for row in rows]
    return "\n".join([*lines, table(header, padded)])


def _cores(node: int | None, cpus: Sequence[Reply]) -> Iterable[tuple[str, str, str, list[str]]]:
    title = "-" if node is None else str(node)
    if not cpus:
        yield title, "-", "-", ["(memory only)"]
    cores: dict[int, list[Reply]] = {}
    for cpu in cpus:
        cores.setdefault(cpu["cpu"] if cpu["core"] is None else cpu["core"], []).append(cpu)
    for core, threads in sorted(cores.items()):
        package = threads[0]["package"]
        shown = [f"{cpu['cpu']} {_owner(cpu)}" for cpu in threads]
        yield title, "-" if package is None else str(package), str(core), shown


def _owner(cpu: Reply) -> str:
    state = "" if cpu["online"] else " (offline)"
    if cpu["owners"]:
        return "+".join(cpu["owners"]) + state
    return ("." if cpu["pool"] is None else "free") + state


def grant(reply: Reply) -> str:
    """One sentence for an allocation or release."""
    service = reply["service_name"]
    if "message" in reply:
        return f"{service}: {reply['message']}"
    cpus = reply.get("allocated_cores", reply.get("cores_allocated"))
    where = f" in NUMA node {reply['numa_node']}" if "numa_node" in reply else ""
    held = f"holds CPUs {cpus}{where}" if cpus else f"holds no CPUs{where} now"
    return f"{service}: {held}; {reply['remaining_available_cpus']} CPUs free"


def health(reply: Reply) -> str:
    """The health report."""
    lines = [
        f"{'healthy' if reply['healthy'] else 'NOT healthy'}: epa-orchestrator "
        f"{reply['daemon_version']}, pid {reply['pid']}, up {reply['uptime_seconds']} s, "
        f"{reply['services']} services hold {reply['claimed_cpus']} CPUs, "
        f"state in {reply['state']}"
    ]
    lines += [f"- {problem['text']} [{problem['code']}]" for problem in reply["problems"]]
    return "\n".join(lines)


def ovs(reply: Reply) -> str:
    """The switch, a line for each thread, and what is wrong."""
    switch = reply["switch"]
    if switch["state"] == "another-host":
        return "the daemon reads another host's files: it leaves this one's Open vSwitch alone"
    lines = [
        f"switch {switch['path']}: {switch['state']} (followed by {switch['followed']}); "
        f"CPUs that nobody owns: {reply['free_cpus'] or 'none'}"
    ]
    rows = [
        (
            f"{process['name']} {process['pid']}",
            thread["tid"],
            thread["name"],
            "left alone" if process["left_alone"] else thread["wanted"] or "-",
            thread["actual"],
            thread["last_cpu"],
        )
        for process in reply["processes"]
        for thread in process["threads"]
    ]
    header = ("PROCESS", "THREAD", "NAME", "WANTED", "ACTUAL", "LAST CPU")
    lines.append(table(header, rows) if rows else "no Open vSwitch daemon runs")
    return "\n".join([*lines, *(f"- {problem}" for problem in reply["problems"])])


def history(events: Sequence[Reply]) -> str:
    """A line for each event."""
    if not events:
        return "nothing happened"
    rows = [
        (
            event["at"].replace("+00:00", "Z"),
            event["service_name"] if event["service_name"].isprintable() else "?",
            event["subject"],
            *(event[what] or "-" for what in ("got", "lost", "released")),
            event["action"],
            _requester(event),
        )
        for event in events
    ]
    header = ("WHEN", "SERVICE", "OF", "GOT", "LOST", "RELEASED", "ACTION", "REQUESTED BY")
    return table(header, rows)


def _requester(event: Reply) -> str:
    if event["uid"] is None:
        return "-"
    text = f"uid {event['uid']} pid {event['pid']}"
    if event["snap"] is None:
        text += " snap unknown"
    elif event["snap"]:
        text += f" snap {event['snap']}"
    named = event["requested_for"]
    return text if named in (None, event["service_name"]) else f"{text} for {named}"


def restored(reply: Reply) -> str:
    """What a restore came to."""
    lines = [f"restored: {reply['services']} services hold something"]
    if reply["kept"]:
        lines.append(f"the store from before is kept: {reply['kept']}")
    if reply["not_compared"]:
        lines.append(f"it was not compared with the backup: {reply['not_compared']}")
    return "\n".join([*lines, *(f"- forgotten: {text}" for text in reply["forgotten"])])


def verdict(reply: Reply) -> str:
    """What `verify` found."""
    where = f"the store in {reply['state']} (daemon {reply['daemon']})"
    if reply["services"] is not None:
        where += f": {reply['services']} services hold {reply['claimed_cpus']} CPUs"
    lines = [f"{'sound' if reply['sound'] else 'NOT sound'}: {where}"]
    lines += [f"- {problem['text']} [{problem['code']}]" for problem in reply["problems"]]
    return "\n".join(lines)


def recording(folder: object, about: Reply) -> str:
    """What was recorded, and what could not be."""
    lines = [f"recorded {about['files']} files in {folder}"]
    lines += [f"- not read: {name}: {why}" for name, why in about["not_read"].items()]
    return "\n".join(lines)
