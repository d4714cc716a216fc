# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""A unit of the charm, to run hooks and actions on."""

import dataclasses
from typing import Any

import ops
from ops import testing

import charm
from tests.unit.charm.machine import Machine

HOOKS = ("install", "upgrade_charm", "config_changed", "start", "update_status")


@dataclasses.dataclass
class Unit:
    machine: Machine
    config: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])
    status: ops.StatusBase = dataclasses.field(default_factory=ops.UnknownStatus)
    version: str = ""
    history: list[ops.StatusBase] = dataclasses.field(default_factory=list[ops.StatusBase])
    logs: list[str] = dataclasses.field(default_factory=list[str])
    spans: set[str] = dataclasses.field(default_factory=set[str])

    def hook(self, name: str = "update_status") -> ops.StatusBase:
        """Run a hook; returns the status that it leaves."""
        context = self._context()
        return self._take(context, context.run(getattr(context.on, name)(), self._state()))

    def action(self, name: str, **parameters: Any) -> dict[str, Any]:
        """Run an action; returns its results, or raises testing.ActionFailed."""
        context = self._context()
        event = context.on.action(
            name, params={key.replace("_", "-"): value for key, value in parameters.items()}
        )
        try:
            state = context.run(event, self._state())
        except testing.ActionFailed as failure:
            left: Any = failure.state
            self._take(context, left)
            raise
        self._take(context, state)
        return context.action_results or {}

    def _context(self) -> testing.Context[charm.EpaOrchestratorCharm]:
        root = self.machine.folder / "charm"
        return testing.Context(charm.EpaOrchestratorCharm, charm_root=root)

    def _state(self) -> testing.State:
        principal = testing.SubordinateRelation("sunbeam-machine", remote_app_name="machine")
        resource = testing.Resource(name="epa-orchestrator-snap", path=self.machine.resource)
        return testing.State(
            config=self.config,
            relations={principal},
            resources={resource},
            unit_status=_as_scenario(self.status),
        )

    def _take(
        self, context: testing.Context[charm.EpaOrchestratorCharm], state: testing.State
    ) -> ops.StatusBase:
        self.status = _as_ops(state.unit_status)
        self.version = state.workload_version
        self.history = [_as_ops(status) for status in context.unit_status_history]
        self.spans = {span.name for span in context.trace_data}
        self.logs = [log.message for log in context.juju_log]
        assert not state.deferred
        assert not state.opened_ports
        return self.status


def _as_ops(status: Any) -> ops.StatusBase:
    if status.name == "unknown":
        return ops.UnknownStatus()
    return ops.StatusBase.from_name(status.name, status.message)


def _as_scenario(status: ops.StatusBase) -> Any:
    if status.name == "unknown":
        return testing.UnknownStatus()
    kinds: dict[str, Any] = {
        "active": testing.ActiveStatus,
        "blocked": testing.BlockedStatus,
        "waiting": testing.WaitingStatus,
        "maintenance": testing.MaintenanceStatus,
    }
    return kinds[status.name](status.message)
