"""The requests of the soak test: all kinds of answers, some with faults, and their outcomes."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import orjson

from bench import reading, wire
from bench.shape import FAULTS, Shape, add_fault
from bench.workloads import CLIENTS, Workload

_SHAPES = (
    Shape(text=20, pause=100),
    Shape(reasoning=8, text=12, pause=100),
    Shape(arguments=16, pause=80),
    Shape(reasoning=4, text=6, arguments=8, pause=60),
    Shape(text=200, pause=5),
    Shape(text=300),
)
_FAULT_SHARE = 0.05
"""The share of requests that each kind of fault affects."""


@dataclass(frozen=True)
class Turn:
    """One request and its fault.

    ``fault`` is one of ``bench.shape.FAULTS``, ``leave`` (the client disconnects), or ``None``.
    """

    client: str
    workload: Workload
    fault: str | None

    def build_request(self, port: int) -> bytes:
        """Return the bytes of the HTTP request."""
        body = self.workload.make_body(self.client)
        if self.client == "responses":
            body["store"] = False  # stored responses would legitimately grow memory
        if self.fault in FAULTS:
            body["model"] = add_fault(body["model"], self.fault)
        return wire.build_request(port, self.client, orjson.dumps(body))

    def find_fault(self, raw: bytes | bytearray) -> str | None:
        """Return the fault of the answer, or ``None`` if it is as expected."""
        status, body = wire.read_status(raw), wire.read_body(raw)
        streamed, about = self.workload.streamed, f"{self.client}, {self.fault or 'sound'}"
        if self.fault == "fail" or (self.fault == "cut" and not streamed):
            fault = find_refusal_fault(status, body, 500 if self.fault == "fail" else 502)
        elif status != 200:
            fault = f"status {status}: {body[:200]!r}"
        elif self.fault == "cut":
            fault = reading.find_failure_fault(body, self.client)
        else:
            fault = reading.find_fault(body, self.client, self.workload.shape, streamed)
        return f"{about}: {fault}" if fault else None


def draw_turn(random: Random) -> Turn:
    """Draw a random turn. Each kind of fault has the same probability."""
    shape = random.choice(_SHAPES)
    streamed, passthrough = random.random() < 0.7, random.random() < 0.3
    workload = Workload("soak", "", shape, 1, 1, streamed, passthrough=passthrough)
    faults = (*FAULTS, "leave")
    index = int(random.random() / _FAULT_SHARE)
    fault = faults[index] if index < len(faults) else None
    return Turn(random.choice(CLIENTS), workload, fault)


def find_refusal_fault(status: int, body: bytes, expected: int) -> str | None:
    if status != expected:
        return f"status {status} instead of {expected}: {body[:200]!r}"
    error = orjson.loads(body).get("error")
    return None if error and error.get("message") else f"no error in {body[:200]!r}"
