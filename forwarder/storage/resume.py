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
from forwarder.core.read_limit import (
    DEFAULT_REQUEST_LIMITS,
    ReadLimit,
    RequestLimits,
    spend_references,
)
from forwarder.core.types import EventStream, Handler, Json
from forwarder.core.validate import BOOL, DICT, STR, read_field, require_field
from forwarder.storage import references
from forwarder.storage.db import Database, conversations, responses
from forwarder.storage.db.compression import SpendCallback
from forwarder.storage.db.conversations import ConversationItem
from forwarder.storage.db.responses import StoredResponse
from forwarder.storage.history_errors import EarlierItems, LossCallback, call_with_earlier_items
from forwarder.storage.items import check_id, derive_id, render_item, to_items

LOCAL_PARAMETERS = ("previous_response_id", "conversation", "background", "background_options")
"""Parameters that are honoured here."""


class UpstreamMemory(NamedTuple):
    """What is known of an upstream's own memory.

    ``name`` is the upstream's.  Does it keep the responses that it gives?  Does it know the client
    by a key of its own, so that ids which are not known here are the client's all the same?  Is
    it to go on from a response of its own, rather than be told all again?
    """

    name: str
    stores_responses: bool = False
    has_client_key: bool = False
    can_continue: bool = True


class HistoryReference(NamedTuple):
    """What a request says that it stands on, checked."""

    previous: str | None
    conversation: str | None

    @property
    def is_set(self) -> bool:
        return self.previous is not None or self.conversation is not None

    @property
    def param(self) -> str:
        """The parameter that says it."""
        return "previous_response_id" if self.conversation is None else "conversation"


def read_history_reference(request: Json) -> HistoryReference:
    """Raises InvalidRequest for what contradicts itself."""
    previous = read_field(request, "previous_response_id", STR, "previous_response_id")
    given = read_field(request, "conversation", (str, dict), "conversation")
    if isinstance(given, dict):
        given = require_field(given, "id", STR, "conversation.id")
    read_field(request, "background_options", DICT, "background_options")
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
    return HistoryReference(previous, given)


def is_stored(request: Json) -> bool:
    """Is the response to be stored?"""
    return read_field(request, "store", BOOL, "store") is not False


def is_background(request: Json) -> bool:
    """Is the response wanted later?"""
    return bool(read_field(request, "background", BOOL, "background"))


def with_history(
    call: Handler,
    database: Database,
    find_owner: Callable[[], str],
    memory: UpstreamMemory,
    drop: LossCallback,
    limits: RequestLimits = DEFAULT_REQUEST_LIMITS,
) -> Handler:
    """Wrap a call so that what its requests stand on is part of them.

    ``find_owner`` is asked only when there is something to look up.  ``drop`` is told what of that
    does not reach the upstream.  A request that is over ``limits`` with all of it raises TooLarge.
    """

    def handle_request(request: Json) -> EventStream:
        base, given = read_history_reference(request), request.get("input")
        rest = {k: v for k, v in request.items() if k not in LOCAL_PARAMETERS}
        if memory.stores_responses and is_background(request):
            rest["background"] = True  # it works on, whatever becomes of this process
        if not base.is_set and not references.list_references(given):
            return call(rest)
        limit = ReadLimit(limits, base.param if base.is_set else "input")
        limit.spend_value(rest)
        owner = find_owner()
        past, there = database.read(lambda c: read_history(c, owner, base, memory, given, limit))
        if references.list_references(given):
            rest["input"] = references.replace_references(rest["input"], there)
        if past is None:
            return call(rest | {k: v for k, v in request.items() if k in LOCAL_PARAMETERS[:2]})
        touch_responses(database, owner, past.used_responses)
        if past.upstream_response_id is not None:
            return call({**rest, "previous_response_id": past.upstream_response_id})
        own = {**rest, "input": to_items(rest.get("input"))}
        earlier = references.replace_references(past.items, there)
        if references.list_references(earlier):
            drop(f"{base.param}.item_reference", "what an earlier turn refers to is gone")
        earlier = [item for item in earlier if not references.is_reference(item)]
        return call_with_earlier_items(call, own, EarlierItems(earlier, base.param), drop)

    return handle_request


def read_history(
    connection: sa.Connection,
    owner: str,
    base: HistoryReference,
    memory: UpstreamMemory,
    given: Any,
    limit: ReadLimit,
) -> tuple[StoredHistory | None, dict[str, Json]]:
    """What came before, and what it and the given input refer to."""
    past = find_history(connection, owner, base, memory, limit)
    names = [
        *references.list_references(given),
        *references.list_references(past.items if past else []),
    ]
    if not names:
        return past, {}
    there = references.find_items(connection, owner, names, limit.spend)
    spend_references(limit, names, there)
    return past, there


class StoredHistory(NamedTuple):
    """What came before a request, or the upstream's id of it, and the stored responses in it."""

    items: list[Json]
    upstream_response_id: str | None = None
    used_responses: tuple[StoredResponse, ...] = ()


def find_history(
    connection: sa.Connection,
    owner: str,
    base: HistoryReference,
    memory: UpstreamMemory,
    limit: ReadLimit,
) -> StoredHistory | None:
    """``None`` when only the upstream can know it."""
    handed_on = memory.stores_responses and memory.has_client_key
    if base.conversation is not None:
        if conversations.find(connection, owner, base.conversation) is None:
            if handed_on:
                return None
            raise conversation_not_found(base.conversation, "conversation")
        said = conversations.read_items(connection, owner, base.conversation, spend=limit.spend)
        return StoredHistory([each.data for each in said])
    if base.previous is None:
        return StoredHistory([])
    turns = responses.read_chain(connection, owner, base.previous)
    if not turns:
        if handed_on:
            return None
        raise previous_response_not_found(base.previous)
    last = turns[-1]
    if last.is_running:
        raise InvalidRequest(
            f"The response '{last.id}' is not over yet.",
            param="previous_response_id",
            code="previous_response_not_completed",
        )
    is_its_own = memory.stores_responses and last.upstream == memory.name
    if is_its_own and memory.can_continue and last.upstream_id:
        return StoredHistory([], last.upstream_id, tuple(turns))
    return StoredHistory(
        read_chain_items(connection, owner, turns, limit.spend), None, tuple(turns)
    )


def read_chain_items(
    connection: sa.Connection, owner: str, turns: list[StoredResponse], spend: SpendCallback
) -> list[Json]:
    """The items of a chain of responses, in their order."""
    contents = responses.read_contents(connection, owner, [turn.id for turn in turns], spend)
    items: list[Json] = []
    for turn in turns:
        items += [each.data for each in read_conversation_before(connection, owner, turn, spend)]
        given, output = contents[turn.id]
        items += [*given, *output]
    return items


def read_conversation_before(
    connection: sa.Connection, owner: str, turn: StoredResponse, spend: SpendCallback | None
) -> list[ConversationItem]:
    """The items of the conversation that a response was a part of, as it was then."""
    if turn.conversation is None or not turn.before:
        return []
    conversation, before = turn.conversation, turn.before
    return conversations.read_items(connection, owner, conversation, max_number=before, spend=spend)


def read_response_input(
    connection: sa.Connection, owner: str, response_id: str, spend: SpendCallback | None = None
) -> list[Json]:
    """What a response answers, as it is told: its own input, behind all that it continues.

    Empty when there is no such response.
    """
    turns = responses.read_chain(connection, owner, response_id)
    contents = responses.read_contents(connection, owner, [turn.id for turn in turns], spend)
    items: list[Json] = []
    for turn in turns:
        said = read_conversation_before(connection, owner, turn, spend)
        items += [render_item(each.data, each.id) for each in said]
        given, output = contents[turn.id]
        own = given if turn.id == response_id else [*given, *output]
        items += [render_item(item, derive_id(item, turn.id, i)) for i, item in enumerate(own)]
    return items


def touch_responses(database: Database, owner: str, turns: tuple[StoredResponse, ...]) -> None:
    stale = [turn.id for turn in turns if responses.is_stale(turn)]
    if stale:
        database.write(lambda c: responses.touch(c, owner, stale))


# -- errors ---------------------------------------------------------------------------------------


def previous_response_not_found(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"Previous response with id '{name[:64]}' not found.",
        param="previous_response_id",
        code="previous_response_not_found",
    )


def conversation_not_found(name: str, param: str | None = None) -> NotFound:
    """There is none of this name, or not for this client."""
    return NotFound(f"Conversation with id '{name[:64]}' not found.", param=param)
