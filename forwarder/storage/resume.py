"""What a request stands on: earlier responses, a conversation, items that it refers to.

A wrapper around any call that speaks Responses.  What came before is put in front of the input,
so that an upstream without any memory answers as one that has it; to one that keeps its own
responses the id is handed on instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import sqlalchemy as sa

from forwarder.core.errors import InvalidRequest, NotFound
from forwarder.core.read_limit import DEFAULT_LIMITS, ReadLimit, RequestLimits, spend_references
from forwarder.core.types import Call, Json, Stream
from forwarder.core.validate import BOOL, DICT, STR, optional, require
from forwarder.storage import references
from forwarder.storage.db import Database, conversations, responses
from forwarder.storage.db.compression import Spend
from forwarder.storage.db.conversations import Said
from forwarder.storage.db.responses import Kept
from forwarder.storage.history_errors import Drop, Earlier, ask
from forwarder.storage.items import as_items, check_id, derived_id, shown

OURS = ("previous_response_id", "conversation", "background", "background_options")
"""Parameters that are honoured here."""


class Memory(NamedTuple):
    """What is known of an upstream's own memory.

    ``name`` is the upstream's.  Does it keep the responses that it gives?  Does it know the client
    by a key of its own, so that ids which are not known here are the client's all the same?  Is
    it to go on from a response of its own, rather than be told all again?
    """

    name: str
    keeps: bool = False
    knows_client: bool = False
    goes_on: bool = True


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


def base_of(request: Json) -> Base:
    """Raises InvalidRequest for what contradicts itself."""
    previous = optional(request, "previous_response_id", STR, "previous_response_id")
    given = optional(request, "conversation", (str, dict), "conversation")
    if isinstance(given, dict):
        given = require(given, "id", STR, "conversation.id")
    optional(request, "background_options", DICT, "background_options")
    if previous is not None:
        check_id(previous, "previous_response_id")
    if given is not None:
        check_id(given, "conversation")
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


def resumed(
    call: Call,
    database: Database,
    find_owner: Callable[[], str],
    memory: Memory,
    drop: Drop,
    limits: RequestLimits = DEFAULT_LIMITS,
) -> Call:
    """Wrap a call so that what its requests stand on is part of them.

    ``find_owner`` is asked only when there is something to look up.  ``drop`` is told what of that
    does not reach the upstream.  A request that is over ``limits`` with all of it raises TooLarge.
    """

    def resume_and_call(request: Json) -> Stream:
        base, given = base_of(request), request.get("input")
        rest = {k: v for k, v in request.items() if k not in OURS}
        if memory.keeps and is_background(request):
            rest["background"] = True  # it works on, whatever becomes of this process
        if not base.is_something and not references.wanted(given):
            return call(rest)
        limit = ReadLimit(limits, base.param if base.is_something else "input")
        limit.spend_value(rest)
        owner = find_owner()
        past, there = database.read(lambda c: _known(c, owner, base, memory, given, limit))
        if references.wanted(given):
            rest["input"] = references.resolved(rest["input"], there)
        if past is None:
            return call(rest | {k: v for k, v in request.items() if k in OURS[:2]})
        _use(database, owner, past.used)
        if past.handed_on is not None:
            return call({**rest, "previous_response_id": past.handed_on})
        own = {**rest, "input": as_items(rest.get("input"))}
        earlier = references.resolved(past.items, there)
        if references.wanted(earlier):
            drop(f"{base.param}.item_reference", "what an earlier turn refers to is gone")
        earlier = [item for item in earlier if not references.is_reference(item)]
        return ask(call, own, Earlier(earlier, base.param), drop)

    return resume_and_call


def _known(
    connection: sa.Connection,
    owner: str,
    base: Base,
    memory: Memory,
    given: Any,
    limit: ReadLimit,
) -> tuple[Past | None, dict[str, Json]]:
    """What came before, and what it and the given input refer to."""
    past = _past(connection, owner, base, memory, limit)
    names = [*references.wanted(given), *references.wanted(past.items if past else [])]
    if not names:
        return past, {}
    there = references.found(connection, owner, names, limit.spend)
    spend_references(limit, names, there)
    return past, there


class Past(NamedTuple):
    """What came before a request, or the upstream's id of it, and the stored responses in it."""

    items: list[Json]
    handed_on: str | None = None
    used: tuple[Kept, ...] = ()


def _past(
    connection: sa.Connection, owner: str, base: Base, memory: Memory, limit: ReadLimit
) -> Past | None:
    """``None`` when only the upstream can know it."""
    handed_on = memory.keeps and memory.knows_client
    if base.conversation is not None:
        if conversations.find(connection, owner, base.conversation) is None:
            if handed_on:
                return None
            raise no_conversation(base.conversation, "conversation")
        said = conversations.items_of(connection, owner, base.conversation, spend=limit.spend)
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
    is_its_own = memory.keeps and last.upstream == memory.name
    if is_its_own and memory.goes_on and last.upstream_id:
        return Past([], last.upstream_id, tuple(turns))
    return Past(_history(connection, owner, turns, limit.spend), None, tuple(turns))


def _history(connection: sa.Connection, owner: str, turns: list[Kept], spend: Spend) -> list[Json]:
    """The items of a chain of responses, in their order."""
    contents = responses.read_contents(connection, owner, [turn.id for turn in turns], spend)
    items: list[Json] = []
    for turn in turns:
        items += [each.data for each in _said_before(connection, owner, turn, spend)]
        given, output = contents[turn.id]
        items += [*given, *output]
    return items


def _said_before(
    connection: sa.Connection, owner: str, turn: Kept, spend: Spend | None
) -> list[Said]:
    """The items of the conversation that a response was a part of, as it was then."""
    if turn.conversation is None or not turn.before:
        return []
    conversation, before = turn.conversation, turn.before
    return conversations.items_of(connection, owner, conversation, until=before, spend=spend)


def input_of(
    connection: sa.Connection, owner: str, response_id: str, spend: Spend | None = None
) -> list[Json]:
    """What a response answers, as it is told: its own input, behind all that it continues.

    Empty when there is no such response.
    """
    turns = responses.chain(connection, owner, response_id)
    contents = responses.read_contents(connection, owner, [turn.id for turn in turns], spend)
    items: list[Json] = []
    for turn in turns:
        said = _said_before(connection, owner, turn, spend)
        items += [shown(each.data, each.id) for each in said]
        given, output = contents[turn.id]
        own = given if turn.id == response_id else [*given, *output]
        items += [shown(item, derived_id(item, turn.id, i)) for i, item in enumerate(own)]
    return items


def _use(database: Database, owner: str, turns: tuple[Kept, ...]) -> None:
    stale = [turn.id for turn in turns if responses.is_stale(turn)]
    if stale:
        database.write(lambda c: responses.touch(c, owner, stale))


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
