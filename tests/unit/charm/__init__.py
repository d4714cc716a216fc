# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.
