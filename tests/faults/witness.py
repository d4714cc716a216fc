# Copyright 2026 the EPA Orchestrator authors
# See LICENSE file for licensing details.

"""Keeps the stories of clients while they are told, and holds a daemon against them."""

import threading
from dataclasses import dataclass, field

from tests.faults import stories
from tests.faults.stories import Fields, Held, Story
from tests.functional.daemons import Daemon


@dataclass
class Witness:
    """The stories of all clients of one daemon; clients tell them from threads of their own."""

    stories: dict[str, Story] = field(default_factory=dict[str, Story])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, line: Fields, mark: int = 0) -> None:
        """What a client of `load` notes."""
        with self._lock:
            story = self.stories.setdefault(line["service"], Story())
            if "request" in line:
                story.asked(line["request"])
            else:
                story.told(line["reply"], mark)

    def ask(self, daemon: Daemon, action: str, **fields: object) -> Fields:
        """A request of the test itself; a reply that does not come leaves the step open."""
        request: Fields = {"version": "1.0", "action": action, **fields}
        if action != "allocate_hugepages":
            request.setdefault("pool", "isolated")
        service = str(fields["service_name"])
        self.note({"service": service, "request": request})
        try:
            reply = daemon.ask(action, **{k: v for k, v in request.items() if k != "action"})
        except ValueError:
            return {}
        self.note({"service": service, "reply": reply})
        return reply

    def begin_anew(self, seen: dict[str, Held]) -> None:
        """What is seen now is what the next stories begin with."""
        self.stories = {service: Story(held) for service, held in seen.items()}


def look(daemon: Daemon) -> dict[str, Held]:
    """What a daemon shows, both pools and hugepages."""
    listings = [daemon.listing(), daemon.listing(pool="general")]
    return stories.seen_of(listings, daemon.ask("get_memory_info"))
