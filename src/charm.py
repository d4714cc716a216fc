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
import patience
import reconciler
import refreshing
import removal
import status
from wanted import Effort, Wanted

logger = logging.getLogger(__name__)

RESOURCE = "epa-orchestrator-snap"
# The deployment tool gives each unit's refresh-snap 600 s; what comes late takes some more.
REFRESH_SECONDS = 400.0


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
        ):
            framework.observe(event, self._on_any_change)
        framework.observe(self.on.update_status, self._on_update_status)
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
        self._reconcile(Effort.FULL)

    def _on_update_status(self, _: ops.UpdateStatusEvent) -> None:
        self._reconcile(Effort.AGAIN)

    def _on_remove(self, _: ops.RemoveEvent) -> None:
        try:
            removal.leave(self.unit.name)
        except Exception:
            # A remove hook that fails wedges the unit for good; the traceback is in the log.
            logger.exception("could not clean up; %s", removal.FINISH)

    def _on_collect_unit_status(self, event: ops.CollectStatusEvent) -> None:
        if self._report is not None:
            event.add_status(status.status(self._report))

    def _reconcile(self, effort: Effort) -> None:
        """Reconcile, remember the outcome for the status, and name the workload's version."""
        try:
            wanted = self._wanted(effort)
        except errors.NeedsOperator as error:
            logger.error("bad option: %s", error)
            self._report = status.Report(blocked=(str(error),))
            return
        self._report = reconciler.reconcile(wanted)
        self._set_version()

    def _wanted(self, effort: Effort) -> Wanted:
        """What the options and resources ask for.

        Raises:
            errors.NeedsOperator: an option makes no sense.
        """
        try:
            config = self.load_config(models.CharmConfig, errors="raise")
        except ValueError as error:
            raise errors.NeedsOperator(str(error)) from error
        return Wanted(
            unit=self.unit.name,
            config=config,
            resource=self._resource,
            bundle=self.charm_dir / "bundle" / "epa-orchestrator.snap",
            effort=effort,
            working=self._show_work,
        )

    def _resource(self) -> pathlib.Path | None:
        """The attached snap; None if none was ever attached.

        Raises:
            errors.HealsItself: Juju cannot bring it for now.
        """
        try:
            return self.model.resources.fetch(RESOURCE)
        except ops.ModelError as error:
            # Juju says so where none was ever attached; another snap instead is no answer to
            # anything else.
            if "not found" in str(error):
                logger.debug("no resource: %s", error)
                return None
            logger.warning("resource-get: %s", error)
            raise errors.HealsItself(
                f"waiting for Juju to bring the resource {RESOURCE}"
            ) from error

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
        self._reconcile(Effort.NONE)

    def _on_release_action(self, event: ops.ActionEvent) -> None:
        params = event.load_params(models.ReleaseParams, errors="fail")
        self._answer(event, lambda: actions.release(params))
        self._reconcile(Effort.NONE)

    def _on_health_check_action(self, event: ops.ActionEvent) -> None:
        def check() -> actions.Results:
            results, problems = actions.health_check()
            if problems:
                event.fail("; ".join(problems))
            return results

        self._answer(event, check)

    def _on_refresh_snap_action(self, event: ops.ActionEvent) -> None:
        with patience.within(REFRESH_SECONDS):
            self._answer(event, lambda: refreshing.refresh_snap(self._wanted(Effort.FULL)))
            self._reconcile(Effort.AGAIN)

    def _on_restart_daemon_action(self, event: ops.ActionEvent) -> None:
        self._answer(event, actions.restart_daemon)
        self._reconcile(Effort.NONE)

    def _answer(self, event: ops.ActionEvent, work: Callable[[], actions.Results]) -> None:
        """Give an action its results, or its one-line failure."""
        try:
            event.set_results(work())
        except (errors.ActionFailed, errors.Trouble) as error:
            logger.warning("%s: %s", event.handle.kind, error)
            event.fail(str(error))


if __name__ == "__main__":
    ops.main(EpaOrchestratorCharm)
