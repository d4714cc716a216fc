# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A machine with Open vSwitch and the orchestrator's snap: 10 CPUs, of which 4-9 are isolated."""

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.lab import cache, ready, standins
from tests.integration.lab.lab import Lab
from tests.integration.lab.machine import Machine
from tests.integration.lab.shape import Shape
from tests.integration.lab.template import Template

SHAPE = Shape(cpus=10, sockets=1, threads=2, isolated="4-9")
SWITCH = "/etc/openvswitch/enable_dynamic_cpu_affinity"
PROGRAM = "/root/ovs_guest.py"
_CONSUMER = (standins.CONSUMER, Path(standins.__file__))
_MADE_BY = (Path(ready.__file__),)
_PYTHON = ("/usr/local/python3.12/bin/python3.12", "-S")
_SECOND_INSTANCE = """
set -e
mkdir /run/second
export OVS_RUNDIR=/run/second
db=unix:/run/second/db.sock
ovsdb-tool create /run/second/conf.db
ovsdb-server /run/second/conf.db --remote=p$db --pidfile --detach --no-chdir
ovs-vsctl --db=$db --no-wait init
ovs-vswitchd $db --enable-dummy --disable-system --pidfile --detach --monitor --no-chdir
ovs-vsctl --db=$db add-br br0 -- set bridge br0 datapath_type=dummy \\
    -- add-port br0 p0 -- set interface p0 type=dummy-pmd
"""
_GUEST = Path(__file__).with_name("ovs_guest.py")


def bare(lab: Lab) -> Template:
    """The machine without the daemon's snap."""
    consumer = lab.cache.get("consumer-ovs", cache.key_of(files=_CONSUMER), standins.consumer)
    packed = consumer / "epa-consumer.snap"
    prepare = functools.partial(ready.install, snap=packed)
    return lab.template("openvswitch-bare", SHAPE, prepare, [packed, *_MADE_BY])


def connected(lab: Lab, snap: Path) -> Template:
    """With it, and everything connected."""
    return lab.derive(
        "openvswitch", bare(lab), functools.partial(_install, snap=snap), [snap, *_MADE_BY]
    )


def _install(machine: Machine, snap: Path) -> None:
    ready.install(machine, snap, "epa-orchestrator.snap")
    ready.connect_everything(machine)


class OvsHost:
    """What a test does there and sees; a program in the guest does it, near and fast."""

    def __init__(self, machine: Machine):
        self.machine = machine
        machine.put(_GUEST, PROGRAM)

    def guest(self, verb: str, *arguments: str, timeout: float = 120) -> Any:
        command = [*_PYTHON, PROGRAM, verb, *arguments]
        return json.loads(self.machine.run(command, timeout=timeout).stdout)

    def switch(self, content: str) -> None:
        self.machine.write(SWITCH, content)

    def masks(self) -> dict[str, dict[str, str]]:
        """By process, then by thread name: the masks, as the kernel has them."""
        return self.guest("masks")

    def wait_for(self, seen: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not seen():
            assert time.monotonic() < deadline, (self.masks(), self.log())
            time.sleep(0.1)

    def wait_for_masks(self, mask: str) -> None:
        """Until every thread but PMD threads has this mask."""
        self.wait_for(lambda: self.all_masks() == {mask})

    def all_masks(self) -> set[str]:
        return {
            mask
            for threads in self.masks().values()
            for name, mask in threads.items()
            if not name.startswith("pmd")
        }

    def log(self) -> str:
        return self.machine.run("snap logs -n=all epa-orchestrator").stdout

    def health(self) -> list[str]:
        reply = self.guest("ask", json.dumps({"action": "get_health"}))
        return [problem["text"] for problem in reply["problems"]]

    def ask(self, action: str, **fields: Any) -> dict[str, Any]:
        return self.guest("ask", json.dumps({"action": action, **fields}))

    def pid(self) -> int:
        unit = "snap.epa-orchestrator.daemon"
        return int(self.machine.run(f"systemctl show -P MainPID {unit}").stdout)

    def wait(self) -> None:
        """Until the daemon answers."""
        ask = [*_PYTHON, PROGRAM, "ask", '{"action": "get_health"}']
        self.wait_for(lambda: self.machine.run(ask, check=False).returncode == 0, 30)

    def second_instance(self) -> None:
        """Another database and switch, monitored, with a userspace datapath and a PMD thread."""
        self.machine.run(_SECOND_INSTANCE)

    def flood(self) -> None:
        """Keep a handler busy: every packet is of a new flow, and so a miss in the datapath."""
        self.machine.run("ovs-vsctl --may-exist add-br flood; ip link set flood up")
        flood = " ".join([*_PYTHON, PROGRAM, "flood", "flood"])
        self.machine.run(f"setsid taskset -c 0 {flood} >/dev/null 2>&1 </dev/null &")

    def keep_main_thread_busy(self) -> None:
        """Ask ovs-vswitchd for something again and again: its main thread answers."""
        nag = " ".join([*_PYTHON, PROGRAM, "nag"])
        self.machine.run(f"setsid taskset -c 0 {nag} >/dev/null 2>&1 </dev/null &")

    def busy_handlers(self) -> list[int]:
        """Where the handlers are that work now."""
        return self.guest("busy")
