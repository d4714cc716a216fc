# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The snap's hooks: snapd's options are judged and taken over, and a refresh is checked.

A hook that fails prints its reason to standard error, and snapd undoes the change that ran it.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from charms.epa_orchestrator.v0 import epa_client

from epa_daemon import options as option_rules
from epa_daemon import pools, preflight, reports, settings, state_folder
from epa_daemon.errors import CannotStart, EpaError
from epa_daemon.options import Options, OptionsFile
from epa_daemon.settings import Settings

# A daemon that starts answers within a second; a slow disk may take its time.
_STARTING_SECONDS = 30.0
_VALIDATED = "validated-cpu-pool"


class _Undo(EpaError):
    """The change that ran this hook must not be; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the hook that is named by the only argument; returns the exit code."""
    (name,) = sys.argv[1:] if arguments is None else arguments
    hook = {"install": install, "configure": configure, "post-refresh": post_refresh}[name]
    here = Settings(
        Path("/"),
        settings.default_data(),
        settings.default_state(),
        OptionsFile(settings.default_options_file()),
    )
    return run(hook, here)


def run(hook: Callable[[Settings], None], here: Settings) -> int:
    """Run a hook, its failure being one line on standard error; returns the exit code."""
    try:
        hook(here)
    except pools.PoolError as error:
        print(f"Invalid cpu-pool configuration: {error}", file=sys.stderr)
        return 1
    except (EpaError, epa_client.EpaError, OSError, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def install(here: Settings) -> None:
    """Make the shared folder: clients may be connected before the daemon first runs."""
    here.data.mkdir(mode=0o755, exist_ok=True)


def configure(here: Settings) -> None:
    """Have the options judged, by the running daemon if there is one, and kept.

    Where anything fails, the daemon and its file are as before, as snapd's options are.
    """
    stored = _stored_options()
    options = _read(stored, stored.get("cpu-pool"))
    marked = _group(stored, "internal").get(_VALIDATED)
    before = _kept(here)
    try:
        accepted = _have_judged(here, before, options)
        if marked != accepted:
            _snapctl("set", f"internal.{_VALIDATED}={json.dumps(accepted)}")
        _await_answer(here)
    except BaseException:
        _restore(here, before)
        raise


def post_refresh(here: Settings) -> None:
    """Let the refresh count only if this revision's daemon will start.

    It starts with the pool that was last accepted: the configure hook, which judges a new value,
    runs only after it.
    """
    stored = _stored_options()
    last = _group(stored, "internal").get(_VALIDATED)
    here.data.mkdir(mode=0o755, exist_ok=True)
    here.options.keep(_read(stored, last if isinstance(last, str) else None))
    for problem in preflight.check(here):
        if problem.code == "cannot-start":
            raise _Undo(f"this revision cannot take over: {problem.text}")
        print(problem.text, file=sys.stderr)


def _have_judged(here: Settings, before: Options | None, options: Options) -> str:
    """The accepted pool as ranges, or `isolated`; the options are kept, and hold if one runs."""
    # A running daemon has taken over whatever there was.
    here.options.offer(replace(options, takeover_prefer=None))
    deadline = time.monotonic() + _STARTING_SECONDS
    while True:
        try:
            accepted = _reload(here)
        except epa_client.NotRunning as error:
            try:
                general = preflight.accept(here, before, options)
            except state_folder.DaemonRunning:
                if time.monotonic() > deadline:
                    raise _silent(here) from error
            else:
                here.options.keep(options)
                if not state_folder.in_use(here.state):
                    shown = reports.options(options.rules(general), options.access)
                    return shown.cpu_pool
                # A daemon has started meanwhile, perhaps with the options from before.
        else:
            if options.takeover_prefer:
                _snapctl("unset", "takeover.prefer")
            return accepted
        time.sleep(0.1)


def _reload(here: Settings) -> str:
    try:
        reply = epa_client.EpaClient(str(here.socket)).request("reload")
    except epa_client.Refused as error:
        if error.code == "invalid-cpu-pool":
            raise pools.PoolError(error.text) from error
        raise
    return cast("str", reply["options"]["cpu_pool"])


def _restore(here: Settings, before: Options | None) -> None:
    """Undo what has been done; a daemon that only answers later finds nothing new either."""
    here.options.withdraw()
    if before is None:
        return
    here.options.keep(before)
    try:
        _reload(here)
    except epa_client.NotRunning:
        pass
    except (epa_client.EpaError, pools.PoolError) as error:
        print(f"the daemon has not gone back to the options from before: {error}", file=sys.stderr)


def _await_answer(here: Settings) -> None:
    """Let `snap install` and `snap refresh` end when clients can connect, where it runs at all."""
    deadline = time.monotonic() + _STARTING_SECONDS
    while " active " in _snapctl("services"):
        try:
            epa_client.EpaClient(str(here.socket)).list_allocations()
        except epa_client.NotRunning as error:
            if time.monotonic() > deadline:
                raise _silent(here) from error
            time.sleep(0.2)
        else:
            return


def _silent(here: Settings) -> _Undo:
    return _Undo(
        f"the daemon runs and does not listen on {here.socket}; "
        "look at: snap logs epa-orchestrator.daemon"
    )


def _kept(here: Settings) -> Options | None:
    try:
        return here.options.kept()
    except CannotStart as error:
        # This very hook is how an operator writes the file anew.
        print(f"{error}; it is replaced", file=sys.stderr)
        return None


def _stored_options() -> dict[str, Any]:
    answer = _snapctl("get", "-d", "cpu-pool", "internal", "policy", "takeover", "access")
    try:
        return json.loads(answer)
    except ValueError as error:
        raise _Undo(f"snapctl get answered {answer[:200]!r}: {error}") from error


def _group(stored: dict[str, Any], name: str) -> dict[str, Any]:
    value = stored.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Undo(
            f"Invalid {name}: '{json.dumps(value)}' is not a group of options; "
            f"undo it with: snap unset epa-orchestrator {name}"
        )
    return cast("dict[str, Any]", value)


def _read(stored: dict[str, Any], cpu_pool: Any) -> Options:
    policy = _options(stored, "policy", (*option_rules.POLICY_LIMITS, option_rules.OWNERS))
    access = _options(stored, "access", option_rules.ACCESS_FIELDS.values())
    numbers = {
        field: option_rules.policy_number(option, policy[option])
        for field, option in option_rules.POLICY_FIELDS.items()
        if policy.get(option) is not None
    }
    prefer = option_rules.prefer({"takeover_prefer": _group(stored, "takeover").get("prefer")})
    lists: dict[str, Any] = {
        field: option_rules.ids(option, access.get(option))
        for field, option in option_rules.ACCESS_FIELDS.items()
    }
    owners = option_rules.owners(policy.get(option_rules.OWNERS))
    return Options(cpu_pool, takeover_prefer=prefer, owners=owners, **numbers, **lists)


def _options(stored: dict[str, Any], group: str, known: Collection[str]) -> dict[str, Any]:
    """The options of a group by their whole names; one that means nothing is not let pass."""
    found = {f"{group}.{key}": value for key, value in _group(stored, group).items()}
    unknown = sorted(found.keys() - set(known))
    if unknown:
        there = ", ".join(known)
        raise _Undo(f"Invalid {unknown[0]}: there is no such option; there are {there}")
    return found


def _snapctl(*arguments: str) -> str:
    # snapd puts the snapctl of its own version first on a hook's PATH.
    try:
        done = subprocess.run(  # noqa: S603
            ["snapctl", *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    except subprocess.CalledProcessError as error:
        raise _Undo(f"snapctl {' '.join(arguments)} failed: {error.stderr.strip()}") from error
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
