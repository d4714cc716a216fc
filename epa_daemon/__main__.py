# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""`python -m epa_daemon` is the command `epa-orchestrator`."""

import sys

from epa_daemon import cli

if __name__ == "__main__":
    sys.exit(cli.main())
