# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Measures the daemon against floors that are taken in the same run. `make bench`."""
