# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""The kinds of failure: a request or a command is refused, no start, the store failed."""

from typing import Literal

ErrorCode = Literal[
    "invalid-json",
    "request-too-long",
    "incomplete-request",
    "unknown-action",
    "invalid-request",
    "invalid-count",
    "not-permitted",
    "pool-not-configured",
    "invalid-cpu-pool",
    "invalid-options",
    "host-unreadable",
    "memory-unreadable",
    "wrong-pool",
    "no-numa",
    "no-such-node",
    "no-such-hugepage-size",
    "pool-excludes-claims",
    "claims-outside-pool",
    "no-cpus",
    "no-cpus-in-node",
    "node-too-small",
    "policy-downgrade",
    "insufficient-cpus",
    "insufficient-hugepages",
    "nothing-selected",
    "held-by-others",
    "contested",
    "too-many-services",
    "store-failed",
    "internal-error",
]
"""Every value of `code` in an error reply; docs/reference/socket-api.md explains each."""


class EpaError(Exception):
    """Base of every error that this project raises itself."""


class Refusal(EpaError):
    """A request is answered with an error, and nothing changes.

    Attributes:
        code: machine-readable and stable; the reference lists them all.
        text: one sentence for people. The wordings of the contract are exact: clients match them.
        path: the file at fault, where a file of the host is the reason.
    """

    def __init__(self, code: ErrorCode, text: str, path: str | None = None):
        super().__init__(text)
        self.code: ErrorCode = code
        self.text = text
        self.path = path


class CannotStart(EpaError):
    """The daemon refuses to run; it exits 78 with this one line and has touched nothing."""


class NotDone(EpaError):
    """A command that works on files was refused or failed; it has changed nothing."""


class StoreFailed(EpaError):
    """The store could not make a change durable; ledger and disk are as they were before."""


class StoreInDoubt(EpaError):
    """Whether a change is durable can only be read from the disk: nothing may be answered."""


class StoreRemoved(StoreInDoubt):
    """The files went while a change was written: no start will read it, nor what was before."""
