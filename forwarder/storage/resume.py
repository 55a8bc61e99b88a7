"""Resolve what a request continues: a previous response, a conversation, or referenced items.

Wraps any Responses handler. Earlier items are prepended to the input, so that an upstream without
storage can continue a conversation. An upstream that stores its own responses receives the id
instead.
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
"""Parameters that are handled here and removed from requests to upstreams."""


class UpstreamMemory(NamedTuple):
    """Storage properties of an upstream.

    ``name`` is the upstream's name. ``stores_responses``: the upstream stores its responses.
    ``has_client_key``: the client uses its own API key there, so that an id unknown here may still
    be valid there. ``can_continue``: the upstream should continue from its own stored response
    instead of receiving the whole history.
    """

    name: str
    stores_responses: bool = False
    has_client_key: bool = False
    can_continue: bool = True


class HistoryReference(NamedTuple):
    """The validated history parameters of a request."""

    previous: str | None
    conversation: str | None

    @property
    def is_set(self) -> bool:
        return self.previous is not None or self.conversation is not None

    @property
    def param(self) -> str:
        """The name of the parameter that is set."""
        return "previous_response_id" if self.conversation is None else "conversation"


def read_history_reference(request: Json) -> HistoryReference:
    """Validate the history parameters. Raises InvalidRequest."""
    previous = read_field(request, "previous_response_id", STR, "previous_response_id")
    conversation = read_field(request, "conversation", (str, dict), "conversation")
    if isinstance(conversation, dict):
        conversation = require_field(conversation, "id", STR, "conversation.id")
    read_field(request, "background_options", DICT, "background_options")
    if previous is not None:
        check_id(previous, "previous_response_id")
    if conversation is not None:
        check_id(conversation, "conversation")
    if previous is not None and conversation is not None:
        raise InvalidRequest(
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    if is_background(request) and not is_stored(request):
        raise InvalidRequest(
            "Invalid value for 'background': background responses require 'store' to be true.",
            param="background",
        )
    return HistoryReference(previous, conversation)


def is_stored(request: Json) -> bool:
    """Whether the response is stored. The default is yes."""
    return read_field(request, "store", BOOL, "store") is not False


def is_background(request: Json) -> bool:
    """Whether the request asks for a background response."""
    return bool(read_field(request, "background", BOOL, "background"))


def with_history(
    handler: Handler,
    database: Database,
    find_owner: Callable[[], str],
    memory: UpstreamMemory,
    drop: LossCallback,
    limits: RequestLimits = DEFAULT_REQUEST_LIMITS,
) -> Handler:
    """Wrap a Responses handler: prepend the history that its requests refer to.

    ``find_owner`` is called only if there is something to look up. ``drop`` is called for history
    that does not reach the upstream. Raises TooLarge if a request with its history exceeds
    ``limits``.
    """

    def handle_request(request: Json) -> EventStream:
        reference, request_input = read_history_reference(request), request.get("input")
        rest = {k: v for k, v in request.items() if k not in LOCAL_PARAMETERS}
        if memory.stores_responses and is_background(request):
            rest["background"] = True  # continues at the upstream even if this process dies
        if not reference.is_set and not references.list_references(request_input):
            return handler(rest)
        limit = ReadLimit(limits, reference.param if reference.is_set else "input")
        limit.spend_value(rest)
        owner = find_owner()
        past, found_items = database.read(
            lambda c: read_history(c, owner, reference, memory, request_input, limit)
        )
        if references.list_references(request_input):
            rest["input"] = references.replace_references(rest["input"], found_items)
        if past is None:
            return handler(rest | {k: v for k, v in request.items() if k in LOCAL_PARAMETERS[:2]})
        stale = [turn.id for turn in past.used_responses if responses.is_stale(turn)]
        if stale:
            database.write(lambda c: responses.touch(c, owner, stale))
        if past.upstream_response_id is not None:
            return handler({**rest, "previous_response_id": past.upstream_response_id})
        own = {**rest, "input": to_items(rest.get("input"))}
        earlier = references.replace_references(past.items, found_items)
        if references.list_references(earlier):
            drop(f"{reference.param}.item_reference", "the referenced item no longer exists")
        earlier = [item for item in earlier if not references.is_reference(item)]
        return call_with_earlier_items(handler, own, EarlierItems(earlier, reference.param), drop)

    return handle_request


def read_history(
    connection: sa.Connection,
    owner: str,
    reference: HistoryReference,
    memory: UpstreamMemory,
    request_input: Any,
    limit: ReadLimit,
) -> tuple[StoredHistory | None, dict[str, Json]]:
    """Return the stored history, and the items that it and the input refer to, by id."""
    past = find_history(connection, owner, reference, memory, limit)
    names = [
        *references.list_references(request_input),
        *references.list_references(past.items if past else []),
    ]
    if not names:
        return past, {}
    found_items = references.find_items(connection, owner, names, limit.spend)
    spend_references(limit, names, found_items)
    return past, found_items


class StoredHistory(NamedTuple):
    """Earlier items or the upstream's response id, and the stored responses used."""

    items: list[Json]
    upstream_response_id: str | None = None
    used_responses: tuple[StoredResponse, ...] = ()


def find_history(
    connection: sa.Connection,
    owner: str,
    reference: HistoryReference,
    memory: UpstreamMemory,
    limit: ReadLimit,
) -> StoredHistory | None:
    """Return the history of a request; ``None`` if only the upstream can know it."""
    may_exist_upstream = memory.stores_responses and memory.has_client_key
    if reference.conversation is not None:
        if conversations.find(connection, owner, reference.conversation) is None:
            if may_exist_upstream:
                return None
            raise conversation_not_found(reference.conversation, "conversation")
        stored_items = conversations.read_items(
            connection, owner, reference.conversation, spend=limit.spend
        )
        return StoredHistory([each.data for each in stored_items])
    if reference.previous is None:
        return StoredHistory([])
    turns = responses.read_chain(connection, owner, reference.previous)
    if not turns:
        if may_exist_upstream:
            return None
        raise previous_response_not_found(reference.previous)
    last = turns[-1]
    if last.is_running:
        raise InvalidRequest(
            f"The response '{last.id}' is still in progress.",
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
    """Return the items of a chain of responses, in order."""
    contents = responses.read_contents(connection, owner, [turn.id for turn in turns], spend)
    items: list[Json] = []
    for turn in turns:
        items += [each.data for each in read_conversation_before(connection, owner, turn, spend)]
        turn_input, output = contents[turn.id]
        items += [*turn_input, *output]
    return items


def read_conversation_before(
    connection: sa.Connection, owner: str, turn: StoredResponse, spend: SpendCallback | None
) -> list[ConversationItem]:
    """Return a conversation's items as they were before a response."""
    if turn.conversation is None or not turn.before:
        return []
    conversation, before = turn.conversation, turn.before
    return conversations.read_items(connection, owner, conversation, max_number=before, spend=spend)


def read_response_input(
    connection: sa.Connection, owner: str, response_id: str, spend: SpendCallback | None = None
) -> list[Json]:
    """Return the rendered input items of a response, including the history that it continues.

    Empty if the response does not exist.
    """
    turns = responses.read_chain(connection, owner, response_id)
    contents = responses.read_contents(connection, owner, [turn.id for turn in turns], spend)
    items: list[Json] = []
    for turn in turns:
        earlier = read_conversation_before(connection, owner, turn, spend)
        items += [render_item(each.data, each.id) for each in earlier]
        turn_input, output = contents[turn.id]
        own = turn_input if turn.id == response_id else [*turn_input, *output]
        items += [render_item(item, derive_id(item, turn.id, i)) for i, item in enumerate(own)]
    return items


# -- errors ---------------------------------------------------------------------------------------


def previous_response_not_found(name: str) -> InvalidRequest:
    return InvalidRequest(
        f"Previous response with id '{name[:64]}' not found.",
        param="previous_response_id",
        code="previous_response_not_found",
    )


def conversation_not_found(name: str, param: str | None = None) -> NotFound:
    """The conversation does not exist, or belongs to another client."""
    return NotFound(f"Conversation with id '{name[:64]}' not found.", param=param)
