# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Run a packed charm's dispatch as Juju would, with stub hook tools; anywhere, also in a guest.

    python3.12 hook.py CHARM STATE EVENT

CHARM is the unzipped charm, STATE the JSON file that `tool.py` describes, EVENT a hook such as
`config-changed` or an action such as `actions/release`. Prints {"code", "calls", "stderr"}; the
Python that runs this is the one that runs the charm. Standard library only.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TOOLS = (
    "is-leader",
    "config-get",
    "relation-ids",
    "relation-list",
    "relation-get",
    "resource-get",
    "action-get",
    "action-set",
    "action-fail",
    "action-log",
    "status-get",
    "status-set",
    "application-version-set",
)
# A charm logs much, and starting a Python for each line takes most of the time in a guest.
LOG = """\
#!/bin/sh
printf '%s\\0' "$@" >> "$EPA_HOOK_RECORD.log"
"""
SECONDS = 500


def run(charm: Path, state: Path, event: str) -> dict[str, Any]:
    """Dispatch one event; the answer has every call of a hook tool in order, juju-log's last."""
    with tempfile.TemporaryDirectory() as folder:
        tools = Path(folder, "bin")
        tools.mkdir()
        for name in TOOLS:
            (tools / name).symlink_to(Path(__file__).with_name("tool.py").resolve())
        (tools / "juju-log").write_text(LOG)
        (tools / "juju-log").chmod(0o755)
        record, log = Path(folder, "record"), Path(folder, "record.log")
        record.touch()
        log.touch()
        done = subprocess.run(
            [str(charm / "dispatch")],
            cwd=charm,
            env=_environment(charm, state, event, tools, record),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        calls = [json.loads(line) for line in record.read_text().splitlines()]
        calls += _logged(log.read_text())
    return {"code": done.returncode, "calls": calls, "stderr": done.stderr[-4000:]}


def _logged(text: str) -> list[list[str]]:
    words = text.split("\0")[:-1]
    calls = [words[i : i + 4] for i in range(0, len(words), 4)]
    for call in calls:
        if call[::2] != ["--log-level", "--"]:
            raise ValueError(f"unknown call: juju-log {call}")
    return [["juju-log", *call] for call in calls]


def _python(folder: Path) -> Path:
    """A lasting folder for PATH: the dispatch keeps a link to the python3 that it finds."""
    folder.mkdir(exist_ok=True)
    for name in ("python3", "python3.12"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(sys.executable)
    return folder


def _environment(
    charm: Path, state: Path, event: str, tools: Path, record: Path
) -> dict[str, str]:
    action = event.removeprefix("actions/") if event.startswith("actions/") else ""
    names = {
        "PATH": f"{tools}:{_python(state.with_name('python'))}:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": os.environ.get("HOME", "/root"),
        "EPA_HOOK_STATE": str(state),
        "EPA_HOOK_RECORD": str(record),
        "JUJU_DISPATCH_PATH": event if action else f"hooks/{event}",
        "JUJU_HOOK_NAME": "" if action else event,
        "JUJU_UNIT_NAME": "epa-orchestrator/0",
        "JUJU_MODEL_NAME": "lab",
        "JUJU_MODEL_UUID": "cdac5656-2423-4388-8f30-41854b4cca7d",
        "JUJU_CHARM_DIR": str(charm),
        "JUJU_VERSION": "3.6.0",
        "JUJU_MACHINE_ID": "0",
        "JUJU_PRINCIPAL_UNIT": "machine/0",
    }
    return names | ({"JUJU_ACTION_NAME": action, "JUJU_ACTION_UUID": "1"} if action else {})


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])))
