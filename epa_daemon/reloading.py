# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Taking the options that wait in the options file: judged by what is granted, and then kept."""

from epa_daemon import pools
from epa_daemon.errors import CannotStart, Refusal
from epa_daemon.ledger import Ledger
from epa_daemon.observer import Observer
from epa_daemon.options import OptionsFile
from epa_daemon.pools import Rules
from epa_daemon.rights import Access


def accept(file: OptionsFile, observer: Observer, ledger: Ledger) -> tuple[Rules, Access]:
    """The rules and the access of the options that wait, which are kept from now on.

    Raises:
        Refusal: `invalid-cpu-pool`, `invalid-options`, or `store-failed`; nothing has changed.
    """
    judged = _judged(file, observer, ledger)
    try:
        # Kept first: a start from now on finds what is about to hold.
        file.accept()
    except OSError as error:
        raise Refusal("store-failed", f"Failed to keep the options: {error}") from error
    return judged


def _judged(file: OptionsFile, observer: Observer, ledger: Ledger) -> tuple[Rules, Access]:
    host, _ = observer.look()
    current, present = observer.configured.general, host.topology.present
    try:
        options = file.offered()
        general = pools.accept(options.cpu_pool, current, present, host.isolated, ledger)
    except pools.PoolError as error:
        raise Refusal("invalid-cpu-pool", str(error)) from error
    except CannotStart as error:
        raise Refusal("invalid-options", str(error)) from error
    return options.rules(general), options.access
