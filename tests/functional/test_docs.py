# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The examples of docs/reference/socket-api.md, replayed; EPA_DOCS_UPDATE=1 records them anew.

Comments in the page set the scene: `start` a daemon on a recorded host, change or `remove` a
`file` of it, speak `as nobody`, make the store's disk `full`, or `offer` options to the daemon.
"""

import json
import os
import re
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from epa_daemon import opening
from epa_daemon.errors import ErrorCode
from epa_daemon.ledger import Ledger
from epa_daemon.protocol import ACTIONS
from tests import host_trees
from tests.functional.daemons import Daemon, MakeDaemon, read_to_end
from tests.functional.test_peers import NOBODY, ask_as

PAGE = Path(__file__).parents[2] / "docs/reference/socket-api.md"
STEP = re.compile(
    r"<!-- (?P<verb>\w+) ?(?P<rest>.*?) -->"
    r"|```(?:json|text) request ?(?P<how>\w*)\n(?P<request>.*?)\n```\n"
    r"```json reply\n(?P<reply>.*?)```",
    re.DOTALL,
)
# What differs from run to run.
CHANGING = (
    (re.compile(r'"pid": \d+'), '"pid": 1234'),
    (re.compile(r'"uptime_seconds": \d+'), '"uptime_seconds": 60'),
    (re.compile(r'"daemon_version": "[^"]*"'), '"daemon_version": "..."'),
    (re.compile(r'"at": "[^"]*"'), '"at": "2026-01-31T12:00:00.000+00:00"'),
    (re.compile(r'"uid": \d+'), '"uid": 0'),
    (re.compile(r'"snap": ("[^"]*"|null)'), '"snap": ""'),
    (re.compile(r'"size": \d{5}\b'), '"size": 65536'),
)


class Stage:
    """The daemon that the page's examples speak to."""

    def __init__(self, make_daemon: MakeDaemon):
        self._make = make_daemon
        self.daemon: Daemon | None = None
        self._uid: int | None = None

    def set(self, verb: str, rest: str) -> None:
        if verb == "start":
            self._start(dict(word.split("=", 1) for word in rest.split()))
            return
        assert self.daemon is not None
        path, _, content = rest.partition(" ")
        match verb:
            case "as":
                self._uid = NOBODY if rest == "nobody" else None
                self.daemon.socket_path.chmod(0o666)
            case "file":
                host_trees.write(self.daemon.root / path, content)
            case "remove":
                there = self.daemon.root / path
                shutil.rmtree(there) if there.is_dir() else there.unlink()
            case "offer":
                (self.daemon.folder / "options.json.new").write_text(rest)
            case "full":
                resource.prlimit(self.daemon.pid, resource.RLIMIT_FSIZE, (1, 1))
            case _:
                raise ValueError(verb)

    def _start(self, options: dict[str, str]) -> None:
        if self.daemon:
            self.daemon.stop()
        self.daemon = self._make(host_trees.HOSTS / options["host"], cpu_pool=options.get("pool"))
        kept = ("--options-file", str(self.daemon.folder / "options.json"))
        self.daemon.arguments = kept
        if "state" in options:
            self.daemon.data.mkdir()
            (self.daemon.data / "state.json").write_text(options["state"])
        if "services" in options:
            ledger = Ledger()
            for number in range(int(options["services"])):
                ledger = ledger.with_pages((0, 2048), f"service-{number}", 1)
            opened = opening.open_folder(self.daemon.state)
            opened.commit(Ledger(), ledger, [])
            opened.close()
        if "without" in options:
            shutil.rmtree(self.daemon.root / options["without"])
        self.daemon.start()

    def ask(self, request: str, how: str) -> str:
        assert self.daemon is not None
        if self._uid is not None:
            if os.geteuid() != 0:
                return ""
            reply = json.dumps(ask_as(self._uid, self.daemon, **json.loads(request)))
        else:
            data = request.encode() + (b"x" * 70_000 if how == "long" else b"")
            with self.daemon.connect() as connection:
                connection.sendall(data)
                if how == "half":
                    connection.shutdown(socket.SHUT_WR)
                reply = read_to_end(connection).decode()
        return self._shown(reply)

    def _shown(self, reply: str) -> str:
        """Readable, and without what is of this run: paths of a host and not of a test."""
        assert self.daemon is not None
        text = json.dumps(json.loads(reply), indent=1, ensure_ascii=False)
        text = re.sub(r"\{\n\s+([^{}\[\]]*?)\n\s+\}", compact, text)
        text = text.replace(str(self.daemon.root), "")
        options = "/var/snap/epa-orchestrator/current/options.json"
        text = text.replace(str(self.daemon.folder / "options.json"), options)
        text = text.replace(str(self.daemon.state), "/var/snap/epa-orchestrator/common/state")
        for pattern, constant in CHANGING:
            text = pattern.sub(constant, text)
        return text + "\n"


def compact(match: re.Match[str]) -> str:
    return "{" + re.sub(r"\n\s*", " ", match[1]) + "}"


def replayed(page: str, stage: Stage) -> Iterator[tuple[str, str, str, str]]:
    """For each example: the text as it stands, the request, the reply shown and the real one."""
    for match in STEP.finditer(page):
        if match["verb"]:
            stage.set(match["verb"], match["rest"])
        else:
            real = stage.ask(match["request"], match["how"])
            yield match[0], match["request"], match["reply"], real


def test_every_example_is_what_the_daemon_answers(make_daemon: MakeDaemon):
    page = PAGE.read_text()
    changed = page
    for block, request, shown, real in replayed(page, Stage(make_daemon)):
        if not real:
            continue
        if "EPA_DOCS_UPDATE" in os.environ:
            new = block.replace(f"```json reply\n{shown}```", f"```json reply\n{real}```")
            changed = changed.replace(block, new, 1)
        else:
            assert json.loads(shown) == json.loads(real), request
            assert list(json.loads(shown)) == list(json.loads(real)), request
    if changed != page:
        PAGE.write_text(changed)
        pytest.fail("the examples were recorded anew; read the difference")


def test_every_action_and_every_error_code_has_an_example():
    page = PAGE.read_text()
    for action in ACTIONS:
        assert f"### {action}\n" in page
        assert f'"action":"{action}"' in page
    for code in get_args(ErrorCode):
        section = page.partition(f"### {code}\n")[2].partition("\n### ")[0]
        assert section, code
        if code != "internal-error":
            assert f'"code": "{code}"' in section, code
