# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""What an operator configures about who may change allocations."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Access:
    """Who else may change allocations, and whether snaps keep to their own.

    Attributes:
        uids: users that may, besides root and the daemon's own.
        gids: groups whose members may.
        owners: what a snap has claimed is changed by that snap, and by root outside snaps.
    """

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    owners: bool = False
