# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Runs in the guest: looks at Open vSwitch's threads, and is a client that cannot be fooled."""

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

SOCKET = "/var/snap/epa-orchestrator/current/data/epa.sock"
NAMES = ("ovs-vswitchd", "ovsdb-server")


def ask(request: dict[str, Any]) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SOCKET)
        connection.sendall(json.dumps(request).encode())
        received = b""
        while data := connection.recv(65536):
            received += data
    return json.loads(received)


def stat(path: Path) -> tuple[str, list[str]]:
    content = path.read_text()
    name = content[content.index("(") + 1 : content.rindex(")")]
    return name, content[content.rindex(")") + 2 :].split()


def daemons() -> list[int]:
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name, fields = stat(path / "stat")
        except OSError:
            continue
        if name in NAMES and fields[0] != "Z":
            found.append(int(path.name))
    return found


def threads() -> list[tuple[int, int, str, int, list[int]]]:
    """pid, tid, name, last CPU, mask; PMD threads too."""
    found: list[tuple[int, int, str, int, list[int]]] = []
    for pid in daemons():
        for path in Path(f"/proc/{pid}/task").glob("*"):
            try:
                name, fields = stat(path / "stat")
                mask = sorted(os.sched_getaffinity(int(path.name)))
            except OSError:
                continue
            found.append((pid, int(path.name), name, int(fields[36]), mask))
    return found


def ranges(cpus: list[int]) -> str:
    runs: list[list[int]] = []
    for cpu in cpus:
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def masks() -> dict[str, dict[str, str]]:
    shown: dict[str, dict[str, str]] = {}
    for pid, tid, name, _, mask in threads():
        main = stat(Path(f"/proc/{pid}/stat"))[0]
        shown.setdefault(f"{main} {pid}", {})[f"{name} {tid}"] = ranges(mask)
    return shown


def grants(count: int) -> dict[str, Any]:
    """Grant and release CPUs in turn, again and again the one that a busy handler is on.

    Directly after each reply: no thread may have a granted CPU in its mask, or run on one.
    """
    left: list[str] = []
    taken_from_under, slowest = 0, 0.0
    pids = daemons()
    for number in range(count):
        under = set(running(pids))
        # The lowest CPUs are granted, and the first busy thread sits on the lowest free one.
        request = {"action": "allocate_cores", "service_name": "a", "num_of_cores": 1 + number % 5}
        asked = time.monotonic()
        reply = ask(request)
        slowest = max(slowest, time.monotonic() - asked)
        granted = {cpu for cpu in range(64) if in_ranges(cpu, reply["allocated_cores"])}
        left += [f"grant {number} of {sorted(granted)}: {what}" for what in on(granted, pids)]
        taken_from_under += bool(under & granted)
        ask({"action": "allocate_cores", "service_name": "a", "num_of_cores": -1})
        if number % 5 == 4:
            time.sleep(2.0)  # Long enough for a busy thread to be seated again.
    return {"left": left[:5], "taken_from_under": taken_from_under, "slowest": slowest}


def on(cpus: set[int], pids: list[int]) -> list[str]:
    """Threads that may run on these CPUs, or do."""
    found = [f"one runs on {cpu}" for cpu in running(pids) if cpu in cpus]
    for pid in pids:
        for tid in os.listdir(f"/proc/{pid}/task"):
            try:
                mask = os.sched_getaffinity(int(tid))
                name = stat(Path(f"/proc/{pid}/task/{tid}/stat"))[0] if cpus & mask else "pmd"
            except OSError:
                continue
            if not name.startswith("pmd"):
                found.append(f"{name} may run on {sorted(mask)}")
    return found


def running(pids: list[int]) -> list[int]:
    """The CPUs of the threads that run now; the last ones of sleeping threads mean nothing."""
    found: list[int] = []
    for pid in pids:
        for tid in os.listdir(f"/proc/{pid}/task"):
            try:
                name, fields = stat(Path(f"/proc/{pid}/task/{tid}/stat"))
            except OSError:
                continue
            if not name.startswith("pmd") and fields[0] == "R":
                found.append(int(fields[36]))
    return found


def handlers() -> dict[int, tuple[int, int]]:
    """CPU time and last CPU of each handler."""
    found: dict[int, tuple[int, int]] = {}
    for pid, tid, name, cpu, _ in threads():
        if name.startswith("handler"):
            fields = stat(Path(f"/proc/{pid}/task/{tid}/stat"))[1]
            found[tid] = int(fields[11]) + int(fields[12]), cpu
    return found


def busy_handlers() -> list[int]:
    """Where the handlers are that use half a CPU."""
    before = handlers()
    time.sleep(1)
    # Open vSwitch makes its handlers anew when it may run on more or fewer CPUs.
    after = {tid: seen for tid, seen in handlers().items() if tid in before}
    return [cpu for tid, (ticks, cpu) in after.items() if ticks - before[tid][0] > 50]


def flood(interface: str) -> None:
    """Send frames from and to random stations."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((interface, 0))
        while True:
            stations = bytearray(os.urandom(12))
            stations[0] &= 0xFE
            stations[6] &= 0xFE
            try:
                sender.send(bytes(stations) + b"\x88\xb5" + bytes(46))
            except OSError:
                time.sleep(0.001)  # The queue is full.


def main_threads() -> float:
    """The share of a CPU that the busiest main thread of ovs-vswitchd uses."""

    def used() -> dict[int, int]:
        found = {pid: stat(Path(f"/proc/{pid}/task/{pid}/stat")) for pid in daemons()}
        return {
            pid: int(fields[11]) + int(fields[12])
            for pid, (name, fields) in found.items()
            if name == "ovs-vswitchd"
        }

    before = used()
    time.sleep(1)
    ticks = [after - before[pid] for pid, after in used().items() if pid in before]
    return max(ticks, default=0) / os.sysconf("SC_CLK_TCK")


def nag() -> None:
    """Keep requests waiting at the control socket, which the main thread serves."""
    (path,) = Path("/run/openvswitch").glob("ovs-vswitchd.*.ctl")
    request = json.dumps({"id": 0, "method": "list-commands", "params": []}).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(request * 20)
        while connection.recv(1 << 20):
            connection.sendall(request)


def in_ranges(cpu: int, text: str) -> bool:
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        if int(first) <= cpu <= int(last or first):
            return True
    return False


def main(verb: str, *arguments: str) -> None:
    match verb:
        case "masks":
            print(json.dumps(masks()))
        case "threads":
            print(json.dumps(threads()))
        case "ask":
            print(json.dumps(ask(json.loads(arguments[0]))))
        case "grants":
            print(json.dumps(grants(int(arguments[0]))))
        case "busy":
            print(json.dumps(busy_handlers()))
        case "main":
            print(json.dumps(main_threads()))
        case "nag":
            nag()
        case "flood":
            flood(arguments[0])
        case _:
            raise ValueError(verb)


if __name__ == "__main__":
    main(*sys.argv[1:])
