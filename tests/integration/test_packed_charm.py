# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The packed charm, its wheels and its dispatch, on a Python 3.12 and without any snapd.

What it does where there is one is tested in a machine of its own. Takes EPA_CHARM, or packs.
"""

import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration import charm_files

ROOT = Path(__file__).parents[2]
NO_SNAPD = "snapd is not running; start it: systemctl start snapd.socket"

Run = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.skipif(
    Path("/run/snapd.socket").exists(), reason="this would work on this machine's own snapd"
)


@pytest.fixture(scope="module")
def python312() -> str:
    found = subprocess.run(
        [ROOT / "ci/find-python312"], capture_output=True, text=True, check=False
    )
    if found.returncode:
        pytest.skip(found.stderr.strip())
    return found.stdout.strip()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return charm_files.packed_charm(tmp_path_factory.mktemp("packed"))


@pytest.fixture
def run(packed: Path, python312: str, tmp_path: Path) -> Run:
    """Runs an event of the unzipped charm; returns its calls of hook tools and exit code."""
    charm, state = tmp_path / "charm", tmp_path / "state.json"
    with zipfile.ZipFile(packed) as file:
        file.extractall(charm)
    (charm / "dispatch").chmod(0o755)
    tool = Path(__file__).with_name("hook_tools") / "hook.py"

    def run(event: str, **content: Any) -> dict[str, Any]:
        state.write_text(json.dumps(content))
        done = subprocess.run(
            [python312, tool, charm, state, event], capture_output=True, text=True, check=True
        )
        result: dict[str, Any] = json.loads(done.stdout)
        assert result["code"] == 0, result["stderr"]
        return result

    return run


def status(result: dict[str, Any]) -> list[str]:
    """Kind and text of the last status."""
    *_, last = [call[2:] for call in result["calls"] if call[0] == "status-set"]
    return [word for word in last if word != "--"]


@pytest.mark.parametrize(
    "hook", ["install", "config-changed", "start", "update-status", "upgrade-charm"]
)
def test_every_hook_runs_and_says_that_snapd_is_missing(hook: str, run: Run):
    assert status(run(hook)) == ["blocked", NO_SNAPD]


def test_a_bad_option_is_one_line(run: Run):
    result = run("config-changed", config={"cpu-pool": "all"})
    assert status(result) == ["blocked", "cpu-pool: 'all' is not a CPU list such as 2-7,12"]


@pytest.mark.parametrize("name", ["list-allocations", "list-hugepages", "health-check"])
def test_an_action_without_a_daemon_fails_in_one_line_and_sets_no_status(name: str, run: Run):
    result = run(f"actions/{name}")
    (failure,) = [call for call in result["calls"] if call[0] == "action-fail"]
    assert NO_SNAPD in failure[-1]
    assert not [call for call in result["calls"] if call[0] == "status-set"]


def test_a_bad_parameter_fails_in_one_line(run: Run):
    result = run("actions/allocate-cores", parameters={"service-name": "a"})
    (failure,) = [call for call in result["calls"] if call[0] == "action-fail"]
    assert failure[-1] == "Error in action parameters: give either cores or percent"


@pytest.mark.parametrize("hook", ["stop", "remove"])
def test_leaving_never_fails(hook: str, run: Run):
    run(hook)
