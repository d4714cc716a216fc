# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What each action does, from parameters to results. Knows no Juju."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Generator

from charms.epa_orchestrator.v0 import epa_client

import changes
import claims
import daemon
import epa_snap
import errors
import models
import snapd
import status
import tables

Results = dict[str, str]

TOO_OLD = "needs a newer daemon"


@contextlib.contextmanager
def _asked() -> Generator[None]:
    """Let whatever stands against an action be its failure.

    Raises:
        errors.ActionFailed: with the reason in one line.
    """
    try:
        with daemon.asked():
            yield
    except errors.DaemonSilent as error:
        raise errors.ActionFailed(_why_silent(str(error))) from error
    except epa_client.Refused as error:
        raise errors.ActionFailed(error.text) from error
    except errors.Trouble as error:
        raise errors.ActionFailed(str(error)) from error


def _why_silent(text: str) -> str:
    try:
        if epa_snap.installed() is None:
            return f"the snap {epa_snap.NAME} is not installed"
        reasons = epa_snap.check()
    except errors.Trouble as error:
        return f"{text}; {error}"
    return f"daemon cannot start: {reasons[0]}" if reasons else text


def list_allocations(params: models.ListAllocationsParams) -> Results:
    """Who holds which CPUs, of both pools."""
    with _asked():
        holdings = daemon.look()
    shown = holdings.claims
    if params.service_name is not None:
        shown = tuple(claim for claim in shown if claim.service == params.service_name)
        if not shown:
            raise errors.ActionFailed(f"service {params.service_name} holds no CPUs")
    if params.format == "json":
        text = json.dumps([dataclasses.asdict(claim) for claim in shown])
    else:
        text = tables.allocations(shown)
    return {"allocations": text, "summary": status.allocation_state(holdings)}


def list_hugepages() -> Results:
    """Hugepages of each node and size, and who they are recorded for."""
    with _asked():
        holdings = daemon.look()
    if holdings.pages_problem:
        raise errors.ActionFailed(holdings.pages_problem)
    return {"hugepages": tables.hugepages(holdings.pages)}


def show_topology() -> Results:
    """The host map with the owner of each CPU."""
    return {"topology": _printed("topology", epa_snap.topology)}


def show_ovs_affinity() -> Results:
    """Where Open vSwitch's threads may run, and where they should."""
    return {"affinity": _printed(daemon.OVS_AFFINITY, epa_snap.ovs_affinity)}


def history(params: models.HistoryParams) -> Results:
    """Who got, lost and released what, and at whose request."""
    text = _printed(
        daemon.HISTORY,
        lambda: epa_snap.history(params.service_name, params.since, params.format),
    )
    return {"history": text}


def _printed(feature: str, command: Callable[[], str]) -> str:
    """What a command of the daemon's prints, if it has the feature."""
    with _asked():
        if feature not in daemon.look().features:
            raise errors.ActionFailed(TOO_OLD)
        try:
            return command()
        except snapd.CommandFailed as error:
            raise errors.ActionFailed(changes.reason(str(error))) from error


def allocate_cores(params: models.AllocateCoresParams) -> Results:
    """Hold CPUs for a service."""
    extra: dict[str, str] = {}
    needed: set[str] = set()
    if params.pool != daemon.ISOLATED:
        needed.add("cpu-pools")
        extra["pool"] = params.pool
    if params.preemption_policy is not None:
        needed.add("non-preemptive-allocations")
        extra["preemption_policy"] = params.preemption_policy
    with _asked():
        _require(needed)
        ask = daemon.client()
        if params.percent is not None:
            reply = ask.allocate_cores_percent(params.service_name, params.percent, **extra)
        elif params.numa_node is not None:
            reply = ask.allocate_numa_cores(
                params.service_name, params.numa_node, params.cores or 0, **extra
            )
        else:
            reply = ask.allocate_cores(params.service_name, params.cores or 0, **extra)
        # The count that a NUMA grant echoes is of that node, as are its CPUs.
        cpus = reply["cores_allocated" if params.numa_node is not None else "allocated_cores"]
        return {"cpus": str(cpus), "free-cpus": str(reply["remaining_available_cpus"])}


def release(params: models.ReleaseParams) -> Results:
    """Give a service's CPUs back."""
    with _asked():
        holdings = daemon.look()
        if params.service_name not in holdings.owners(params.pool):
            raise errors.ActionFailed(
                f"service {params.service_name} holds no CPUs of pool {params.pool}"
            )
        extra = {"pool": params.pool} if params.pool != daemon.ISOLATED else {}
        ask = daemon.client()
        if params.numa_node is None:
            reply = ask.release_cores(params.service_name, **extra)
        else:
            reply = ask.release_numa_cores(params.service_name, params.numa_node, **extra)
        after = daemon.look()
        left = [claim for claim in after.claims if claim.service == params.service_name]
        if params.numa_node is not None and not claims.lost(holdings, after):
            raise errors.ActionFailed(
                f"service {params.service_name} holds no CPUs of pool {params.pool} "
                f"in NUMA node {params.numa_node}"
            )
        return {
            "cpus": ",".join(claim.cpus for claim in left),
            "free-cpus": str(reply["remaining_available_cpus"]),
        }


def health_check() -> tuple[Results, list[str]]:
    """The daemon's own report, with what snapd says of its snap; and what is wrong."""
    with _asked():
        holdings = daemon.look()
        if not holdings.newer:
            raise errors.ActionFailed(TOO_OLD)
        report = daemon.client().get_health()
        problems = [str(problem["text"]) for problem in report["problems"]]
        current = epa_snap.installed()
        results = {
            "healthy": "yes" if not problems else "no",
            "daemon-version": str(report["daemon_version"]),
            "uptime-seconds": str(report["uptime_seconds"]),
            "allocation-state": status.allocation_state(holdings),
        }
        if current is not None:
            results["snap-revision"] = current.revision
            results["snap-held"] = "yes" if current.held else "no"
        if problems:
            results["problems"] = "\n".join(problems)
        return results, problems


def restart_daemon() -> Results:
    """Restart the daemon and have it answer; every claim outlives that."""
    with _asked():
        if epa_snap.installed() is None:
            raise errors.ActionFailed(f"the snap {epa_snap.NAME} is not installed")
        epa_snap.restart()
        holdings = daemon.wait(daemon.START_SECONDS)
    return {"result": "restarted", "allocation-state": status.allocation_state(holdings)}


def _require(features: set[str]) -> None:
    if not features <= daemon.look().features:
        raise errors.ActionFailed(TOO_OLD)
