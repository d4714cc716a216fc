# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Install the EPA Orchestrator beside its principal, and keep it as it is wanted.

The charm reconciles: every hook reads what snapd and the daemon say, and changes what differs.
"""

import logging
import pathlib
from collections.abc import Callable

import ops

import actions
import epa_snap
import errors
import models
import reconciler
import removal
import status

logger = logging.getLogger(__name__)

RESOURCE = "epa-orchestrator-snap"


class EpaOrchestratorCharm(ops.CharmBase):
    """Events in, a status and results out; the work is done in the other modules."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.tracing = ops.tracing.Tracing(self, "tracing")
        # None: nothing was looked at in this hook, so that the status stays as it is.
        self._report: status.Report | None = None

        for event in (
            self.on.install,
            self.on.upgrade_charm,
            self.on.config_changed,
            self.on.start,
            self.on.update_status,
        ):
            framework.observe(event, self._on_any_change)
        framework.observe(self.on.remove, self._on_remove)
        framework.observe(self.on.collect_unit_status, self._on_collect_unit_status)
        framework.observe(self.on.list_allocations_action, self._on_list_allocations_action)
        framework.observe(self.on.list_hugepages_action, self._on_list_hugepages_action)
        framework.observe(self.on.history_action, self._on_history_action)
        framework.observe(self.on.show_topology_action, self._on_show_topology_action)
        framework.observe(self.on.show_ovs_affinity_action, self._on_show_ovs_affinity_action)
        framework.observe(self.on.allocate_cores_action, self._on_allocate_cores_action)
        framework.observe(self.on.release_action, self._on_release_action)
        framework.observe(self.on.health_check_action, self._on_health_check_action)
        framework.observe(self.on.refresh_snap_action, self._on_refresh_snap_action)
        framework.observe(self.on.restart_daemon_action, self._on_restart_daemon_action)

    def _on_any_change(self, _: ops.EventBase) -> None:
        self._reconcile()

    def _on_remove(self, _: ops.RemoveEvent) -> None:
        try:
            removal.leave(self.unit.name)
        except Exception:
            # A remove hook that fails wedges the unit for good; the traceback is in the log.
            logger.exception("could not clean up; finish by hand: %s", removal.FINISH)

    def _on_collect_unit_status(self, event: ops.CollectStatusEvent) -> None:
        if self._report is not None:
            event.add_status(status.status(self._report))

    def _reconcile(self) -> status.Report:
        """Reconcile, remember the outcome for the status, and name the workload's version."""
        try:
            config = self.load_config(models.CharmConfig, errors="raise")
        except ValueError as error:
            logger.error("bad option: %s", error)
            self._report = status.Report(blocked=(str(error),))
            return self._report
        self._report = reconciler.reconcile(
            reconciler.Wanted(
                unit=self.unit.name,
                config=config,
                resource=self._resource(),
                bundle=self.charm_dir / "bundle" / "epa-orchestrator.snap",
                working=self._show_work,
            )
        )
        self._set_version()
        return self._report

    def _resource(self) -> pathlib.Path | None:
        try:
            return self.model.resources.fetch(RESOURCE)
        except ops.ModelError as error:
            # Juju says so where none was ever attached.
            logger.debug("no resource: %s", error)
            return None

    def _show_work(self, text: str) -> None:
        logger.info("%s", text)
        self.unit.status = ops.MaintenanceStatus(text)

    def _set_version(self) -> None:
        try:
            current = epa_snap.installed()
        except errors.Trouble:
            return  # The status says so already.
        if current is not None:
            self.unit.set_workload_version(current.version)

    def _on_list_allocations_action(self, event: ops.ActionEvent) -> None:
        params = event.load_params(models.ListAllocationsParams, errors="fail")
        self._answer(event, lambda: actions.list_allocations(params))

    def _on_list_hugepages_action(self, event: ops.ActionEvent) -> None:
        self._answer(event, actions.list_hugepages)

    def _on_history_action(self, event: ops.ActionEvent) -> None:
        params = event.load_params(models.HistoryParams, errors="fail")
        self._answer(event, lambda: actions.history(params))

    def _on_show_topology_action(self, event: ops.ActionEvent) -> None:
        self._answer(event, actions.show_topology)

    def _on_show_ovs_affinity_action(self, event: ops.ActionEvent) -> None:
        self._answer(event, actions.show_ovs_affinity)

    def _on_allocate_cores_action(self, event: ops.ActionEvent) -> None:
        params = event.load_params(models.AllocateCoresParams, errors="fail")
        self._answer(event, lambda: actions.allocate_cores(params))
        self._reconcile()

    def _on_release_action(self, event: ops.ActionEvent) -> None:
        params = event.load_params(models.ReleaseParams, errors="fail")
        self._answer(event, lambda: actions.release(params))
        self._reconcile()

    def _on_health_check_action(self, event: ops.ActionEvent) -> None:
        def check() -> actions.Results:
            results, problems = actions.health_check()
            if problems:
                event.fail("; ".join(problems))
            return results

        self._answer(event, check)

    def _on_refresh_snap_action(self, event: ops.ActionEvent) -> None:
        channel = str(self.config.get("snap-channel") or "")
        self._answer(event, lambda: actions.refresh_snap(channel, self._reconcile))
        self._reconcile()

    def _on_restart_daemon_action(self, event: ops.ActionEvent) -> None:
        self._answer(event, actions.restart_daemon)
        self._reconcile()

    def _answer(self, event: ops.ActionEvent, work: Callable[[], actions.Results]) -> None:
        """Give an action its results, or its one-line failure."""
        try:
            event.set_results(work())
        except errors.ActionFailed as error:
            logger.warning("%s: %s", event.handle.kind, error)
            event.fail(str(error))


if __name__ == "__main__":
    ops.main(EpaOrchestratorCharm)
