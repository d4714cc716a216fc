# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The packed charm on a real machine: what snapd and the daemon say after each of its hooks.

Juju is played by stub hook tools; ops, snapd, the bundled snap and its confinement are real.
"""

from tests.integration.charm_unit import IDLE, Unit


def test_explore(fresh: Unit):
    import time
    for hook in ("install", "config-changed", "start", "update-status"):
        t=time.monotonic()
        print(hook, fresh.run(hook), time.monotonic()-t)
        print("\n".join(fresh.changes()), fresh.connections(), fresh.notes(), fresh.references())
