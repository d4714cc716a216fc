# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The EPA Orchestrator daemon: who owns which isolated CPU and hugepage of this host."""

__version__ = "0.1.0"
