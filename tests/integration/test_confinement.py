# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What the confined daemon really uses beyond snapd's default template, seen by strace.

docs/explanation/confinement.md says it to people; the client snap, which has no plug that opens
more, shows what the default template allows.
"""

import re
from pathlib import Path

from tests.integration.lab.machine import Machine
from tests.integration.orchestrator import Orchestrator

PAGE = Path(__file__).parents[2] / "docs/explanation/confinement.md"
SYSCALLS = {"accept4", "listen"}
FILES = {
    "/sys/devices/system/node/node*/hugepages/*/" + f for f in ("nr_hugepages", "free_hugepages")
}
TRACE = "/root/trace"
# The snap's own, and the base's.
OWN = re.compile(r"/(snap|usr|lib|lib64|etc/ld\.so)\b|/var/snap/epa-orchestrator\b|/etc/python")


def test_it_uses_no_more_than_is_documented(epa: Orchestrator):
    machine = epa.machine
    machine.run("snap stop epa-orchestrator", timeout=120)
    machine.run(f"strace -f -o {TRACE} snap run epa-orchestrator.daemon >/root/log 2>&1 &")
    epa.wait(120)
    epa.allocate("a", 2)
    for action in ("list_allocations", "get_memory_info", "get_topology", "get_health"):
        assert "error" not in epa.ask(action)
    machine.run("snap set epa-orchestrator cpu-pool=0-1", timeout=120)
    machine.run("pkill -TERM -o strace; sleep 1")
    trace = machine.read(TRACE).decode(errors="replace")
    # What runs before is snapd's: it changes its confinement with this very call.
    ours = trace[trace.index('/bin/python3", ["') :]
    assert _syscalls(ours) - _allowed_by_default(machine) == SYSCALLS
    opened = set(re.findall(r'open(?:at)?\((?:\w+, )?"(/[^"]*)"', ours))
    beyond = {path for path in opened if not OWN.match(path) and not _readable(machine, path)}
    assert {re.sub(r"node\d+|hugepages-\w+kB", _star, path) for path in beyond} == FILES
    page = PAGE.read_text()
    for fact in (*SYSCALLS, "nr_hugepages", "free_hugepages"):
        assert f"`{fact}`" in page


def _star(match: re.Match[str]) -> str:
    return "node*" if match[0].startswith("node") else "*"


def _syscalls(trace: str) -> set[str]:
    return set(re.findall(r"^\d+ +([a-z0-9_]+)\(", trace, re.MULTILINE))


def _allowed_by_default(machine: Machine) -> set[str]:
    rules = machine.read("/var/lib/snapd/seccomp/bpf/snap.epa-consumer.ask.src").decode()
    return {line.split()[0] for line in rules.splitlines() if line and line[0] not in "#@"}


def _readable(machine: Machine, path: str) -> bool:
    """For a snap with the default template; a process that has gone by now tells nothing."""
    command = ["snap", "run", "epa-consumer.sh", "-c", f"ls -d {path} && head -c 1 {path}"]
    said = machine.run(command, check=False)
    return "Permission denied" not in said.stderr
