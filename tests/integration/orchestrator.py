# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The orchestrator in a machine, as its users and its clients reach it."""

import json
import time
from typing import Any

from tests.integration.lab.machine import Machine, Result

SOCKET = "/var/snap/epa-orchestrator/current/data/epa.sock"
SNAP = "/root/epa-orchestrator.snap"

Reply = dict[str, Any]


class Orchestrator:
    """An installed snap `epa-orchestrator`, with `epa-consumer` connected to it."""

    def __init__(self, machine: Machine):
        self.machine = machine

    def consumer(self, action: str, **fields: Any) -> Result:
        """Ask through the content interface, from the other strict snap."""
        request = json.dumps({"version": "1.0", "action": action, **fields})
        return self.machine.run(["snap", "run", "epa-consumer.ask", request], check=False)

    def ask(self, action: str, **fields: Any) -> Reply:
        done = self.consumer(action, **fields)
        assert done.returncode == 0, done
        return json.loads(done.stdout)

    def allocate(self, service: str, count: int) -> str:
        reply = self.ask("allocate_cores", service_name=service, num_of_cores=count)
        assert "error" not in reply, reply
        return reply["allocated_cores"]

    def owners(self, **fields: Any) -> dict[str, str]:
        listing = self.ask("list_allocations", **fields)
        return {a["service_name"]: a["allocated_cores"] for a in listing["allocations"]}

    def wait(self, seconds: float = 120) -> None:
        """Until the daemon answers."""
        deadline = time.monotonic() + seconds
        while self.consumer("list_allocations").returncode != 0:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.2)

    def pid(self) -> int:
        unit = "snap.epa-orchestrator.daemon"
        return int(self.machine.run(f"systemctl show -P MainPID {unit}").stdout)

    def log(self) -> str:
        return self.machine.run("snap logs -n=all epa-orchestrator").stdout

    def owners_deployed(self) -> dict[str, str]:
        """What the stand-in for the deployed daemon lists."""
        return self.owners()

    def refresh(self) -> None:
        """To a new revision: that of the file that the machine carries."""
        done = self.try_to_refresh()
        assert done.returncode == 0, done

    def try_to_refresh(self) -> Result:
        return self.machine.run(f"snap install --dangerous {SNAP}", check=False, timeout=240)
