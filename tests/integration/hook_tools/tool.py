#!/usr/bin/env -S python3 -IS
# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""One script under the names of Juju's hook tools: answers from a file, records every call.

`EPA_HOOK_STATE` names a JSON file: {"config": {}, "relations": {"endpoint": {"id": ["unit"]}},
"resource": PATH or null, "parameters": {}, "leader": false}. `EPA_HOOK_RECORD` names the file
that gets a JSON line for each call: [tool, arguments...].
What it does not know, fails. Standard library
only, so that it runs in any machine.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


class Unknown(Exception):
    """A call that no charm of ours makes."""


def answer(  # noqa: C901 - a table
    tool: str, arguments: list[str], state: dict[str, Any]
) -> str | None:
    """What the tool prints; None for nothing."""
    match [tool, *arguments]:
        case ["is-leader", "--format=json"]:
            return json.dumps(state.get("leader", False))
        case ["config-get", *rest] if set(rest) <= {"--format=json", "--all"}:
            return json.dumps(state.get("config", {}))
        case ["relation-ids", endpoint, "--format=json"]:
            return json.dumps(list(state.get("relations", {}).get(endpoint, {})))
        case ["relation-list", *rest]:
            relation = next(word for word in rest if ":" in word or word.isdigit())
            known = {
                key: units for ids in state["relations"].values() for key, units in ids.items()
            }
            return json.dumps(known[relation])
        case ["relation-get", *_]:
            return "{}"
        case ["resource-get", "epa-orchestrator-snap"]:
            if state.get("resource") is None:
                sys.exit('ERROR could not download resource: resource "x" not found')
            return str(state["resource"])
        case ["action-get", "--format=json"]:
            return json.dumps(state.get("parameters", {}))
        case ["status-get", *_]:
            return json.dumps({"message": "", "status": "unknown", "status-data": {}})
        case ["status-set", "--application=False", _, *_]:
            return None
        case ["application-version-set" | "action-set" | "action-fail" | "action-log", *_]:
            return None
        case _:
            raise Unknown(f"{tool} {arguments}")


def main() -> None:
    """Answer one call."""
    tool, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    state: dict[str, Any] = json.loads(Path(os.environ["EPA_HOOK_STATE"]).read_text())
    with Path(os.environ["EPA_HOOK_RECORD"]).open("a") as record:
        record.write(json.dumps([tool, *arguments]) + "\n")
    text = answer(tool, arguments, state)
    if text is not None:
        print(text)


if __name__ == "__main__":
    main()
