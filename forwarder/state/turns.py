"""What a request stands on: earlier responses, a conversation, items that it refers to.

A wrapper around any call that speaks Responses.  What came before is put in front of the input,
so that an upstream without any memory answers as one that has it; to one that keeps its own
responses the id is handed on instead.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.errors import InvalidRequest, NotFound
from forwarder.state.earlier import Drop, Earlier, ask
from forwarder.state.items import as_items
from forwarder.store import Database, conversations, responses
from forwarder.store.responses import Kept
from forwarder.translate.call import Call, Json, Stream
from forwarder.translate.check import BOOL, STR, optional, require

OURS = ("previous_response_id", "conversation", "background")
"""Parameters that are honoured here."""


class Memory(NamedTuple):
    """What is known of an upstream's own memory.

    ``name`` is the upstream's.  Does it keep the responses that it gives?  Does it know the client
    by a key of its own, so that ids which are not known here are the client's all the same?
    """

    name: str
    keeps: bool = False
    knows_client: bool = False


class Base(NamedTuple):
    """What a request says that it stands on, checked."""

    previous: str | None
    conversation: str | None

    @property
    def is_something(self) -> bool:
        return self.previous is not None or self.conversation is not None

    @property
    def param(self) -> str:
        """The parameter that says it."""
        return "previous_response_id" if self.conversation is None else "conversation"


def owner_of(client_key: str | None) -> str:
    """Whose everything is that is stored for a client."""
    return hashlib.sha256((client_key or "").encode()).hexdigest()


def base_of(request: Json) -> Base:
    """Raises InvalidRequest for what contradicts itself."""
    previous = optional(request, "previous_response_id", STR, "previous_response_id")
    given = optional(request, "conversation", (str, dict), "conversation")
    if isinstance(given, dict):
        given = require(given, "id", STR, "conversation.id")
    if previous is not None and given is not None:
        raise InvalidRequest(
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    if is_background(request) and not is_stored(request):
        raise InvalidRequest(
            "Background work needs 'store': it is asked for later.", param="background"
        )
    return Base(previous, given)


def is_stored(request: Json) -> bool:
    """Is the response to be stored?"""
    return optional(request, "store", BOOL, "store") is not False


def is_background(request: Json) -> bool:
    """Is the response wanted later?"""
    return bool(optional(request, "background", BOOL, "background"))


def resumed(call: Call, database: Database, owner: str, memory: Memory, drop: Drop) -> Call:
    """Wrap a call so that what its requests stand on is part of them.

    ``drop`` is told what of that does not reach the upstream.
    """

    def resume_and_call(request: Json) -> Stream:
        base, given = base_of(request), request.get("input")
        rest = {k: v for k, v in request.items() if k not in OURS}
        wanted = _references(given)
        if not base.is_something and not wanted:
            return call(rest)
        past = database.read(lambda c: _past(c, owner, base, memory))
        if past is None:
            rest |= {k: v for k, v in request.items() if k in OURS[:2]}
            return call(_referring(rest, wanted, database, owner))
        _use(database, owner, past.used)
        rest = _referring(rest, wanted, database, owner)
        if past.handed_on is not None:
            return call({**rest, "previous_response_id": past.handed_on})
        own = {**rest, "input": as_items(rest.get("input"))}
        return ask(call, own, Earlier(past.items, base.param), drop)

    return resume_and_call


class Past(NamedTuple):
    """What came before a request, or the upstream's id of it, and the stored responses in it."""

    items: list[Json]
    handed_on: str | None = None
    used: tuple[Kept, ...] = ()


def _past(connection: sa.Connection, owner: str, base: Base, memory: Memory) -> Past | None:
    """``None`` when only the upstream can know it."""
    handed_on = memory.keeps and memory.knows_client
    if base.conversation is not None:
        if conversations.find(connection, owner, base.conversation) is None:
            if handed_on:
                return None
            raise no_conversation(base.conversation, "conversation")
        said = conversations.items_of(connection, owner, base.conversation)
        return Past([each.data for each in said])
    if base.previous is None:
        return Past([])
    turns = responses.chain(connection, owner, base.previous)
    if not turns:
        if handed_on:
            return None
        raise _no_previous(base.previous)
    last = turns[-1]
    if last.is_running:
        raise InvalidRequest(
            f"The response '{last.id}' is not over yet.",
            param="previous_response_id",
            code="previous_response_not_completed",
        )
    if memory.keeps and last.upstream == memory.name and last.upstream_id:
        return Past([], last.upstream_id, tuple(turns))
    return Past(history(connection, owner, turns), None, tuple(turns))


def history(connection: sa.Connection, owner: str, turns: list[Kept]) -> list[Json]:
    """The items of a chain of responses, in their order."""
    items: list[Json] = []
    for turn in turns:
        items += before(connection, owner, turn)
        items += [*turn.input, *(turn.body.get("output") or ())]
    return items


def before(connection: sa.Connection, owner: str, turn: Kept) -> list[Json]:
    """The items of the conversation that a response was a part of, as it was then."""
    if turn.conversation is None or not turn.before:
        return []
    said = conversations.items_of(connection, owner, turn.conversation, until=turn.before)
    return [each.data for each in said]


def _use(database: Database, owner: str, turns: tuple[Kept, ...]) -> None:
    stale = [turn.id for turn in turns if responses.is_stale(turn)]
    if stale:
        database.write(lambda c: responses.touch(c, owner, stale))


# -- references -----------------------------------------------------------------------------------


def _references(given: Any) -> list[str]:
    """The ids of the items that an input refers to."""
    return [str(item["id"]) for item in given if _is_reference(item)] if type(given) is list else []


def _is_reference(item: Any) -> bool:
    if not isinstance(item, dict) or "id" not in item:
        return False
    return item.get("type") == "item_reference" or not (item.get("type") or "role" in item)


def _referring(request: Json, wanted: list[str], database: Database, owner: str) -> Json:
    """The request with the items that it refers to; what is not found stays, to be refused."""
    if not wanted:
        return request
    found = database.read(lambda c: responses.output_items(c, owner, wanted))
    given = [found.get(str(i["id"]), i) if _is_reference(i) else i for i in request["input"]]
    return {**request, "input": given}


# -- errors ---------------------------------------------------------------------------------------


def _no_previous(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"Previous response with id '{name[:64]}' not found.",
        param="previous_response_id",
        code="previous_response_not_found",
    )


def no_conversation(name: str, param: str | None = None) -> NotFound:
    """There is none of this name, or not for this client."""
    return NotFound(f"Conversation with id '{name[:64]}' not found.", param=param)
