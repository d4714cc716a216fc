# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Looking at the host for a decision, and telling the log once of what is wrong with it."""

import dataclasses
import logging

from epa_daemon import pools
from epa_daemon.host import Host, HostReader
from epa_daemon.pools import Rules
from epa_daemon.sysfs import Fault

logger = logging.getLogger(__name__)


class Observer:
    """Reads the host, and fits the configured rules to what is isolated now."""

    def __init__(self, reader: HostReader, rules: Rules):
        self._reader = reader
        self._configured = rules
        self._rules = rules
        self._isolated: frozenset[int] | None = None
        self._known_faults: set[Fault] = set()

    @property
    def configured(self) -> Rules:
        """The rules as they were configured, whatever this host makes of them."""
        return self._configured

    def configure(self, rules: Rules) -> None:
        """Go by other rules from the next look on."""
        self._configured = rules
        self._isolated = None

    def look(self, with_memory: bool = False) -> tuple[Host, Rules]:
        """The host now, and the rules that hold on it."""
        host = self._reader.read(with_memory)
        if host.isolated != self._isolated:
            self._isolated = host.isolated
            self._rules = self._fitted(host)
        if host.faults:
            self._report(host)
        return host, self._rules

    def _fitted(self, host: Host) -> Rules:
        general = pools.beside(self._configured.general, host.isolated)
        if general and general.error:
            logger.error("%s; the general pool has no CPUs until this is corrected", general.error)
        return dataclasses.replace(self._configured, general=general)

    def _report(self, host: Host) -> None:
        harmful = host.harmful_faults
        for fault in host.faults:
            if fault not in self._known_faults:
                self._known_faults.add(fault)
                logger.log(logging.WARNING if fault in harmful else logging.INFO, "%s", fault)
