# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Daemons of the functional tests, disks that fail, and the machine lab for power cuts."""

from pathlib import Path

import pytest

from tests.faults import disks
from tests.functional.conftest import make_daemon as make_daemon
from tests.functional.conftest import short_folder as short_folder
from tests.integration.lab.fixtures import lab as lab


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For `disks.put_under`."""
    built = disks.build(tmp_path_factory.mktemp("disk") / "failing_disk.so")
    if built is None:
        pytest.skip("a C compiler is not installed")
    return built
