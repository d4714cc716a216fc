# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Daemons of the functional tests, and the machine lab for power cuts."""

from tests.functional.conftest import make_daemon as make_daemon
from tests.functional.conftest import short_folder as short_folder
from tests.integration.lab.fixtures import lab as lab
