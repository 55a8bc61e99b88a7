"""What the soak asks: every kind of answer, some of them broken, and how each must end."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import orjson

from bench import reading, wire
from bench.shape import FAULTS, Shape, faulty
from bench.workloads import CLIENTS, Workload

_SHAPES = (
    Shape(text=20, pause=100),
    Shape(reasoning=8, text=12, pause=100),
    Shape(arguments=16, pause=80),
    Shape(reasoning=4, text=6, arguments=8, pause=60),
    Shape(text=200, pause=5),
    Shape(text=300),
)
_SHARE = 0.05
"""The part of the requests that each thing which can go wrong befalls."""


@dataclass(frozen=True)
class Turn:
    """One request: what is asked, and what goes wrong with it.

    ``fault`` is one of ``bench.shape.FAULTS``, ``leave`` (the client does), or none.
    """

    client: str
    workload: Workload
    fault: str | None

    def request(self, port: int) -> bytes:
        """The bytes that ask for it."""
        body = self.workload.body(self.client)
        if self.client == "responses":
            body["store"] = False  # what is stored is kept, up to a limit: memory that may grow
        if self.fault in FAULTS:
            body["model"] = faulty(body["model"], self.fault)
        return wire.request(port, self.client, orjson.dumps(body))

    def wrong(self, raw: bytes | bytearray) -> str | None:
        """What is wrong with the answer, or ``None``."""
        status, body = wire.status_of(raw), wire.body_of(raw)
        streamed, about = self.workload.streamed, f"{self.client}, {self.fault or 'sound'}"
        if self.fault == "fail" or (self.fault == "cut" and not streamed):
            found = _refusal_fault(status, body, 500 if self.fault == "fail" else 502)
        elif status != 200:
            found = f"status {status}: {body[:200]!r}"
        elif self.fault == "cut":
            found = reading.failure_fault(body, self.client)
        else:
            found = reading.fault(body, self.client, self.workload.shape, streamed)
        return f"{about}: {found}" if found else None


def drawn(random: Random) -> Turn:
    """Any turn; a client that leaves, an upstream that breaks off and one that fails are as
    frequent as each other."""
    shape = random.choice(_SHAPES)
    streamed, passthrough = random.random() < 0.7, random.random() < 0.3
    workload = Workload("soak", "", shape, 1, 1, streamed, passthrough=passthrough)
    faults = (*FAULTS, "leave")
    place = int(random.random() / _SHARE)
    fault = faults[place] if place < len(faults) else None
    return Turn(random.choice(CLIENTS), workload, fault)


def _refusal_fault(status: int, body: bytes, expected: int) -> str | None:
    if status != expected:
        return f"status {status} instead of {expected}: {body[:200]!r}"
    error = orjson.loads(body).get("error")
    return None if error and error.get("message") else f"no error in {body[:200]!r}"
