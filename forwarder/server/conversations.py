"""``/v1/conversations``: conversations and their items, which the store has."""

from __future__ import annotations

import time
from typing import Any

from flask import Blueprint, Response, request

from forwarder.core.errors import NotFound
from forwarder.core.ids import random_id
from forwarder.core.read_limit import ReadLimit
from forwarder.core.types import Json
from forwarder.core.validate import expect
from forwarder.protocols.tool_secrets import hide_tool_secrets_of
from forwarder.server import request_context
from forwarder.server.openai import json_answer, json_body
from forwarder.server.stored import checked, entered
from forwarder.storage.db import conversations
from forwarder.storage.db.conversations import Said, Talk
from forwarder.storage.items import checked as checked_items
from forwarder.storage.items import derived_id, shown
from forwarder.storage.pagination import as_list, mark_of, metadata_of, page_of
from forwarder.storage.resume import no_conversation

blueprint = Blueprint("conversations", __name__)

_MOST = 20
"""Items that are added at once."""


@blueprint.post("/conversations")
def create() -> Response:
    """A new conversation, which may have items from the start."""
    state, owner = entered()
    body = json_body(request_context.current(), required=False)
    given = _given(body) if body.get("items") is not None else []
    talk = Talk(random_id("conv"), time.time(), metadata_of(body, expect))

    def write(connection: Any) -> None:
        conversations.create(connection, owner, talk)
        conversations.append(connection, owner, talk.id, given)

    state.database.write(write)
    return json_answer(_shown(talk))


@blueprint.get("/conversations/<name>")
def conversation(name: str) -> Response:
    """A conversation without its items."""
    state, owner = entered()
    return json_answer(_shown(_found(state, owner, name)))


@blueprint.post("/conversations/<name>")
def describe(name: str) -> Response:
    """Give a conversation other metadata."""
    state, owner = entered()
    metadata = metadata_of(json_body(request_context.current()), expect, required=True)
    talk = state.database.write(lambda c: conversations.describe(c, owner, checked(name), metadata))
    if talk is None:
        raise no_conversation(name)
    return json_answer(_shown(talk))


@blueprint.delete("/conversations/<name>")
def delete(name: str) -> Response:
    """Delete a conversation with its items."""
    state, owner = entered()
    if not state.database.write(lambda c: conversations.remove(c, owner, checked(name))):
        raise no_conversation(name)
    return json_answer({"id": name, "object": "conversation.deleted", "deleted": True})


@blueprint.post("/conversations/<name>/items")
def add_items(name: str) -> Response:
    """Add items at the end."""
    state, owner = entered()
    given = _given(json_body(request_context.current()))
    said = state.database.write(lambda c: conversations.append(c, owner, checked(name), given))
    if said is None:
        raise no_conversation(name)
    return json_answer(as_list(list(map(_item, said)), max(len(said), 1)))


@blueprint.get("/conversations/<name>/items")
def items(name: str) -> Response:
    """The items, latest first."""
    state, owner = entered()
    page = page_of(request.args, "desc")
    _found(state, owner, name)

    def read(connection: Any) -> list[Said]:
        after = mark_of(page, lambda x: conversations.place(connection, owner, name, x))
        most = page.limit + 1
        limit = ReadLimit(state.request_limits, "limit", "This page of the list")
        return conversations.listed(connection, owner, name, after, most, page.falling, limit.spend)

    said = state.database.read(read)
    return json_answer(as_list(list(map(_item, said)), page.limit))


@blueprint.get("/conversations/<name>/items/<item_id>")
def item(name: str, item_id: str) -> Response:
    """An item."""
    state, owner = entered()
    only = [checked(item_id)]
    said = state.database.read(lambda c: conversations.items_of(c, owner, checked(name), only))
    if not said:
        raise _no_item(item_id)
    return json_answer(_item(said[0]))


@blueprint.delete("/conversations/<name>/items/<item_id>")
def delete_item(name: str, item_id: str) -> Response:
    """Delete an item; the conversation without it."""
    state, owner = entered()
    talk = _found(state, owner, name)
    place = owner, name, checked(item_id)
    if not state.database.write(lambda c: conversations.remove_item(c, *place)):
        raise _no_item(item_id)
    return json_answer(_shown(talk))


def _given(body: Json) -> list[tuple[str, Json]]:
    """The items of a body, each with the id that it has or gets."""
    items = checked_items(body.get("items"), "items", _MOST)
    batch = random_id("items")
    return [(str(x.get("id") or derived_id(x, batch, i)), x) for i, x in enumerate(items)]


def _found(state: Any, owner: str, name: str) -> Talk:
    talk: Talk | None = state.database.read(lambda c: conversations.find(c, owner, checked(name)))
    if talk is None:
        raise no_conversation(name)
    return talk


def _no_item(name: str) -> NotFound:
    return NotFound(f"Item with id '{name[:64]}' not found.", param="item_id")


def _shown(talk: Talk) -> Json:
    return {
        "id": talk.id,
        "object": "conversation",
        "created_at": int(talk.created),
        "metadata": talk.metadata,
    }


def _item(said: Said) -> Json:
    return hide_tool_secrets_of(shown(said.data, said.id))
