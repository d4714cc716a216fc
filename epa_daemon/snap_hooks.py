# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The snap's hooks: snapd's options are judged and taken over, and a refresh is checked.

A hook that fails prints its reason to standard error, and snapd undoes the change that ran it.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from charms.epa_orchestrator.v0 import epa_client

from epa_daemon import pools, preflight, reports, settings, state_folder
from epa_daemon.errors import CannotStart, EpaError
from epa_daemon.settings import Options, Settings

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
        settings.default_options_file(),
    )
    try:
        hook(here)
    except pools.PoolError as error:
        print(f"Invalid cpu-pool configuration: {error}", file=sys.stderr)
        return 1
    except (EpaError, epa_client.EpaError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def install(here: Settings) -> None:
    """Make the shared folder: clients may be connected before the daemon first runs."""
    here.data.mkdir(mode=0o755, exist_ok=True)


def configure(here: Settings) -> None:
    """Have the options judged, by the running daemon if there is one, and keep them."""
    stored = _stored_options()
    options = _read(stored, stored.get("cpu-pool"))
    before = _kept(here)
    accepted, alone = _judged(here, before, options)
    _write(here, options)
    if alone and state_folder.in_use(here.state):
        _tell_the_started(here, before, options)
    if _group(stored, "internal").get(_VALIDATED) != accepted:
        _snapctl("set", f"internal.{_VALIDATED}={json.dumps(accepted)}")


def post_refresh(here: Settings) -> None:
    """Let the refresh count only if this revision's daemon will start.

    It starts with the pool that was last accepted: the configure hook, which judges a new value,
    runs only after it.
    """
    stored = _stored_options()
    last = _group(stored, "internal").get(_VALIDATED)
    options = _read(stored, last if isinstance(last, str) else None)
    here.data.mkdir(mode=0o755, exist_ok=True)
    _write(here, options)
    for problem in preflight.check(here):
        if problem.code == "cannot-start":
            raise _Undo(f"this revision cannot take over: {problem.text}")
        print(problem.text, file=sys.stderr)


def _judged(here: Settings, before: Options, options: Options) -> tuple[str, bool]:
    """The accepted pool as ranges, or `isolated`; and whether no daemon had a say."""
    deadline = time.monotonic() + _STARTING_SECONDS
    while True:
        try:
            return _tell(here, options), False
        except epa_client.NotRunning as error:
            try:
                general = preflight.accept(here, before, options)
                return reports.options(options.rules(general)).cpu_pool, True
            except state_folder.DaemonRunning:
                if time.monotonic() > deadline:
                    raise _Undo(
                        f"the daemon runs and does not listen on {here.socket}; "
                        "look at: snap logs epa-orchestrator.daemon"
                    ) from error
        time.sleep(0.1)


def _tell(here: Settings, options: Options) -> str:
    fields = {"cpu_pool": options.cpu_pool} | {
        name: getattr(options, name) for name in settings.POLICY_FIELDS
    }
    try:
        reply = epa_client.EpaClient(str(here.socket)).request("configure", **fields)
    except epa_client.Refused as error:
        if error.code == "invalid-cpu-pool":
            raise pools.PoolError(error.text) from error
        raise
    return cast("str", reply["options"]["cpu_pool"])


def _tell_the_started(here: Settings, before: Options, options: Options) -> None:
    """A daemon has started meanwhile, perhaps with the options from before."""
    try:
        _judged(here, before, options)
    except Exception:
        _write(here, before)
        raise


def _kept(here: Settings) -> Options:
    try:
        return here.options()
    except CannotStart as error:
        # This very hook is how an operator writes the file anew.
        print(f"{error}; it is replaced", file=sys.stderr)
        return Options()


def _write(here: Settings, options: Options) -> None:
    assert here.options_file is not None
    settings.write_options(here.options_file, options)


def _stored_options() -> dict[str, Any]:
    return json.loads(_snapctl("get", "-d", "cpu-pool", "internal", "policy"))


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
    policy = {f"policy.{key}": value for key, value in _group(stored, "policy").items()}
    unknown = sorted(policy.keys() - settings.POLICY_LIMITS.keys())
    if unknown:
        known = ", ".join(settings.POLICY_LIMITS)
        raise _Undo(f"Invalid {unknown[0]}: there is no such option; there are {known}")
    numbers = {
        field: settings.policy_number(option, policy[option])
        for field, option in settings.POLICY_FIELDS.items()
        if policy.get(option) is not None
    }
    return Options(cpu_pool, **numbers)


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
