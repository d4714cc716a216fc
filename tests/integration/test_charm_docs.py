# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The examples of `juju run` in the docs, run with the packed charm on a machine.

EPA_DOCS_UPDATE=1 records them anew. Juju, which prints the results as YAML, is played by stub hook
tools and this file.
"""

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.charm_unit import Unit

pytestmark = pytest.mark.long

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("tutorial/deploy.md", "reference/charm.md")
EXAMPLE = re.compile(
    r"^    \$ juju run epa-orchestrator/0 (?P<words>.+)\n(?P<shown>(?:    .*\n|\n(?=      ))+)",
    re.MULTILINE,
)
# What differs from run to run.
CHANGING = (
    (re.compile(r"^( *daemon-version: ).+", re.MULTILINE), r"\1..."),
    (re.compile(r"^( *version: ).+", re.MULTILINE), r"\1..."),
    (re.compile(r"^( *uptime-seconds: ).+", re.MULTILINE), r'\1"60"'),
    (re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z"), "2026-11-21T12:00:00.000Z"),
    (re.compile(r" pid \d+"), " pid 1234"),
    (re.compile(r"(ovsdb-server) \d{3}  \d{3} (.*) \d$", re.MULTILINE), r"\1 380  380 \2 0"),
    (re.compile(r"(ovs-vswitchd) \d{3}  \d{3} (.*) \d$", re.MULTILINE), r"\1 486  486 \2 0"),
)


class Layout(yaml.SafeDumper):
    """YAML as Juju lays it out: texts of several lines as blocks."""


def _text(dumper: Layout, text: str) -> yaml.ScalarNode:
    node = dumper.represent_str(text)
    if "\n" in text:
        node.style = "|"
    elif isinstance(yaml.safe_load(text), bool | int | float | None):
        node.style = '"'  # Else it would be read as that.
    return node


Layout.add_representer(str, _text)


def play(unit: Unit) -> None:
    """What the examples show: four clients, of whom one has a hugepage recorded as well."""
    unit.config["cpu-pool"] = "0-1"
    assert "general pool 0/2" in unit.run("config-changed").status
    unit.epa.allocate("nova", 1)
    unit.epa.allocate("dpdk", 2)
    node = {"service_name": "ovs", "numa_node": 1, "num_of_cores": 2}
    unit.epa.ask("allocate_numa_cores", **node)
    osd = {"pool": "general", "preemption_policy": "non-preemptive"}
    unit.epa.ask("allocate_cores", service_name="ceph-osd.0", num_of_cores=1, **osd)
    pages = {"hugepages_requested": 1, "node_id": 0, "size_kb": 1048576}
    unit.epa.ask("allocate_hugepages", service_name="dpdk", **pages)


def ran(unit: Unit, words: str) -> str:
    """What `juju run` prints of an action's results, indented as in the page."""
    action, *pairs = shlex.split(words)
    given: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        given[name.replace("-", "_")] = yaml.safe_load(value)
    text = yaml.dump(unit.act(action, **given), Dumper=Layout, sort_keys=True)
    for pattern, constant in CHANGING:
        text = pattern.sub(constant, text)
    return "".join(f"    {line}".rstrip() + "\n" for line in text.splitlines())


def in_any_order(text: str) -> list[str]:
    """Its lines: processes are shown by number, and a boot may start them in another order."""
    return sorted(text.splitlines())


def examples(page: str, unit: Unit) -> Iterator[tuple[re.Match[str], str]]:
    for match in EXAMPLE.finditer(page):
        yield match, ran(unit, match["words"])


@pytest.mark.parametrize("name", PAGES)
def test_every_example_is_what_the_charm_answers(name: str, unit: Unit):
    play(unit)
    page = changed = (DOCS / name).read_text()
    seen = 0
    for match, real in examples(page, unit):
        seen += 1
        if "EPA_DOCS_UPDATE" in os.environ:
            changed = changed.replace(match[0], match[0].replace(match["shown"], real), 1)
        else:
            assert in_any_order(real) == in_any_order(match["shown"]), match["words"]
    assert seen
    if changed != page:
        (DOCS / name).write_text(changed)
        pytest.fail("the examples were recorded anew; read the difference")


def test_the_status_in_the_tutorial_is_that_of_its_examples():
    page = (DOCS / "tutorial/deploy.md").read_text()
    (line,) = [line for line in page.splitlines() if " epa-orchestrator/0* " in line]
    examples = [match for match in EXAMPLE.finditer(page) if match["words"] == "health-check"]
    shown = yaml.safe_load(examples[0]["shown"])
    # Columns are two blanks apart; the message is the last.
    assert re.split(r" {2,}", line.strip())[-1] == shown["allocation-state"]


def test_every_action_has_an_example():
    page = (DOCS / "reference/charm.md").read_text()
    charm = yaml.safe_load((DOCS.parent / "charmcraft.yaml").read_text())
    shown = {match["words"].split()[0] for match in EXAMPLE.finditer(page)}
    assert shown == set(charm["actions"])
