"""The interface between the loop and hosted tools: functions, their items and events.

Each kind of tool has subclasses of `HostedFunction`. The loop offers its definition to the model,
shows the model's call to the client as the kind's own item, runs it, and gives the output to the
model.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import orjson

from forwarder.core.types import Event, Json

_TOKEN_LENGTH = 8
_EMBEDDABLE_CALL_ID = re.compile(r"[A-Za-z0-9_-]{1,48}")
_ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{8})[0-9a-f]{8}_([A-Za-z0-9_-]{0,48})")


class CallOutcome(NamedTuple):
    """A finished call: its item, the types of the events before the item is done, and the output
    for the model (a text or parts of a ``function_call_output``)."""

    item: Json
    events: tuple[str, ...]
    output: str | list[Json]


class RunningCall(Protocol):
    """A call that was started."""

    def wait(self, seconds: float | None) -> bool:
        """Wait for the end of the call; return whether it has ended."""

    def read_outcome(self, item: Json) -> CallOutcome:
        """Return the outcome of a call that has ended; ``item`` is its item in progress.

        A failed call is an outcome too, so this raises only ClientDisconnected and bugs.
        """

    def cancel(self) -> None:
        """End the call; its outcome is no longer needed."""


class HostedFunction(ABC):
    """A hosted tool as a function of the model.

    ``name`` is its name upstream. ``id_prefix`` begins the ids of its items. ``start_events`` are
    the types of the events after its item was added. ``argument_events`` is the stem of the events
    with its arguments; without one the item appears when the arguments are complete.
    """

    id_prefix: str
    start_events: tuple[str, ...] = ()
    argument_events: str = ""
    needs_approval = False

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    @abstractmethod
    def definition(self) -> Json:
        """The function tool that is offered to the model."""

    @abstractmethod
    def make_item(self, item_id: str, arguments: str) -> Json:
        """Make the item of a call in progress."""

    @abstractmethod
    def start_call(self, arguments: str) -> RunningCall:
        """Start a call with the model's arguments."""

    def make_detail_events(self, item: Json) -> list[Event]:
        """Make the events after ``start_events``, without the place of the item."""
        return []

    def take_events(self, call: RunningCall) -> list[Event]:
        """Return the events of a running call since the last call of this method.

        The ids and indexes of the item are added later. If a call has events, its `wait` returns
        early for each new event.
        """
        return []

    def cut_item(self, item: Json) -> Json:
        """Return the item of a call that is not run, because the response ends before it."""
        return {**item, "status": "incomplete"}

    def make_approval_request(self, item_id: str, arguments: str) -> Json:
        """Make the item that asks the client for approval."""
        raise NotImplementedError


class FinishedCall:
    """A call that ended at once, for example because its arguments are invalid."""

    def __init__(self, finish: Callable[[Json], CallOutcome]) -> None:
        self._finish = finish

    def wait(self, seconds: float | None) -> bool:
        return True

    def read_outcome(self, item: Json) -> CallOutcome:
        return self._finish(item)

    def cancel(self) -> None:
        """There is nothing to end."""


def make_function_tool(name: str, description: str | None, parameters: Json, **more: Any) -> Json:
    """Make a function tool; it is not strict, because the schema is not the client's."""
    return {
        "type": "function",
        "name": name,
        "description": description or "",
        "parameters": parameters,
        "strict": False,
        **more,
    }


def parse_arguments(arguments: str) -> dict[str, Any] | None:
    """Return a call's arguments; ``None`` if they are not a JSON object."""
    try:
        value = orjson.loads(arguments or "{}")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


# -- ids ----------------------------------------------------------------------------------------


def make_token(new_id: Callable[[str], str]) -> str:
    """Return eight random hex digits."""
    digits = new_id("token").rpartition("_")[2][:_TOKEN_LENGTH]
    return digits.rjust(_TOKEN_LENGTH, "0")


def make_item_id(prefix: str, round_token: str, call_id: str, new_id: Callable[[str], str]) -> str:
    """Make the id of a hosted call's item, from which the model's call can be made again.

    It holds the round, so that calls of one round become parallel calls again, and the upstream's
    call id, so that a stateless next turn repeats the same call to the upstream. A call id with
    other characters or of more than 48 is left out; the id then ends with an underscore.
    """
    embedded = call_id if _EMBEDDABLE_CALL_ID.fullmatch(call_id) else ""
    return f"{prefix}_{round_token}{make_token(new_id)}_{embedded}"


class ItemIdParts(NamedTuple):
    """The parts of an item's id: the round (``None`` for items made elsewhere) and the call id.

    The call id is the id of the item if it does not hold the upstream's.
    """

    round_token: str | None
    call_id: str


def parse_item_id(item_id: str) -> ItemIdParts:
    match = _ITEM_ID.fullmatch(item_id)
    return ItemIdParts(match[1], match[2] or item_id) if match else ItemIdParts(None, item_id)
