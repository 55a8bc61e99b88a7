"""Calls that run in the background, and their time limits."""

from __future__ import annotations

import threading
from typing import Any

from forwarder.hosted_tools.greenlet_call import GreenletCall, ToolFailure
from forwarder.hosted_tools.hosted_function import CallOutcome

Json = dict[str, Any]


def make_outcome(item: Json, status: str, output: str, fields: Json | None = None) -> CallOutcome:
    return CallOutcome({**item, "status": status}, (), output)


def test_call_that_takes_too_long_is_cancelled() -> None:
    cancelled = threading.Event()

    def work(call: GreenletCall) -> tuple[str, Json]:
        call.cancel_callbacks.add(cancelled.set)
        cancelled.wait(10)
        return "late", {}

    call = GreenletCall(work, make_outcome, 0.1)
    assert call.wait(None)
    outcome = call.read_outcome({})
    assert (outcome.item["status"], outcome.output) == ("failed", "The call took too long.")
    assert call.is_cancelled
    assert cancelled.wait(0)


def test_call_that_has_ended_is_not_cancelled() -> None:
    def fail(call: GreenletCall) -> tuple[str, Json]:
        raise ToolFailure("It is broken.")

    for work, output in ((lambda call: ("done", {}), "done"), (fail, "It is broken.")):
        call = GreenletCall(work, make_outcome, 5.0)
        assert call.wait(None)
        assert call.read_outcome({}).output == output
        assert not call.is_cancelled
