"""``/v1/conversations``: conversations and their items, which the store has."""

from __future__ import annotations

import time
from typing import Any

from flask import Blueprint, Response, request

from forwarder.core.errors import NotFound
from forwarder.core.ids import generate_id
from forwarder.core.read_limit import ReadLimit
from forwarder.core.types import Json
from forwarder.core.validate import check_type
from forwarder.protocols.tool_secrets import hide_tool_secrets_of
from forwarder.server import request_context
from forwarder.server.openai import json_answer, read_json_body
from forwarder.server.stored import check_stored_id, open_store
from forwarder.storage.db import conversations
from forwarder.storage.db.conversations import Conversation, ConversationItem
from forwarder.storage.items import check_items as checked_items
from forwarder.storage.items import derive_id
from forwarder.storage.items import render_item as render_stored_item
from forwarder.storage.pagination import find_page_start, make_list, read_metadata, read_page
from forwarder.storage.resume import conversation_not_found

blueprint = Blueprint("conversations", __name__)

MAX_ITEMS_PER_REQUEST = 20
"""Items that are added at once."""


@blueprint.post("/conversations")
def create() -> Response:
    """A new conversation, which may have items from the start."""
    state, owner = open_store()
    body = read_json_body(request_context.current_context(), required=False)
    given = read_new_items(body) if body.get("items") is not None else []
    talk = Conversation(generate_id("conv"), time.time(), read_metadata(body, check_type))

    def write(connection: Any) -> None:
        conversations.create(connection, owner, talk)
        conversations.append_items(connection, owner, talk.id, given)

    state.database.write(write)
    return json_answer(render_conversation(talk))


@blueprint.get("/conversations/<name>")
def conversation(name: str) -> Response:
    """A conversation without its items."""
    state, owner = open_store()
    return json_answer(render_conversation(find_conversation(state, owner, name)))


@blueprint.post("/conversations/<name>")
def describe(name: str) -> Response:
    """Give a conversation other metadata."""
    state, owner = open_store()
    metadata = read_metadata(
        read_json_body(request_context.current_context()), check_type, required=True
    )
    talk = state.database.write(
        lambda c: conversations.set_metadata(c, owner, check_stored_id(name), metadata)
    )
    if talk is None:
        raise conversation_not_found(name)
    return json_answer(render_conversation(talk))


@blueprint.delete("/conversations/<name>")
def delete(name: str) -> Response:
    """Delete a conversation with its items."""
    state, owner = open_store()
    if not state.database.write(lambda c: conversations.remove(c, owner, check_stored_id(name))):
        raise conversation_not_found(name)
    return json_answer({"id": name, "object": "conversation.deleted", "deleted": True})


@blueprint.post("/conversations/<name>/items")
def add_items(name: str) -> Response:
    """Add items at the end."""
    state, owner = open_store()
    given = read_new_items(read_json_body(request_context.current_context()))
    said = state.database.write(
        lambda c: conversations.append_items(c, owner, check_stored_id(name), given)
    )
    if said is None:
        raise conversation_not_found(name)
    return json_answer(make_list(list(map(render_item, said)), max(len(said), 1)))


@blueprint.get("/conversations/<name>/items")
def items(name: str) -> Response:
    """The items, latest first."""
    state, owner = open_store()
    page = read_page(request.args, "desc")
    find_conversation(state, owner, name)

    def read(connection: Any) -> list[ConversationItem]:
        after = find_page_start(
            page, lambda x: conversations.find_item_position(connection, owner, name, x)
        )
        most = page.limit + 1
        limit = ReadLimit(state.request_limits, "limit", "This page of the list")
        return conversations.list_items(
            connection, owner, name, after, most, page.is_descending, limit.spend
        )

    said = state.database.read(read)
    return json_answer(make_list(list(map(render_item, said)), page.limit))


@blueprint.get("/conversations/<name>/items/<item_id>")
def item(name: str, item_id: str) -> Response:
    """An item."""
    state, owner = open_store()
    only = [check_stored_id(item_id)]
    said = state.database.read(
        lambda c: conversations.read_items(c, owner, check_stored_id(name), only)
    )
    if not said:
        raise item_not_found(item_id)
    return json_answer(render_item(said[0]))


@blueprint.delete("/conversations/<name>/items/<item_id>")
def delete_item(name: str, item_id: str) -> Response:
    """Delete an item; the conversation without it."""
    state, owner = open_store()
    talk = find_conversation(state, owner, name)
    place = owner, name, check_stored_id(item_id)
    if not state.database.write(lambda c: conversations.remove_item(c, *place)):
        raise item_not_found(item_id)
    return json_answer(render_conversation(talk))


def read_new_items(body: Json) -> list[tuple[str, Json]]:
    """The items of a body, each with the id that it has or gets."""
    items = checked_items(body.get("items"), "items", MAX_ITEMS_PER_REQUEST)
    batch = generate_id("items")
    return [(str(x.get("id") or derive_id(x, batch, i)), x) for i, x in enumerate(items)]


def find_conversation(state: Any, owner: str, name: str) -> Conversation:
    talk: Conversation | None = state.database.read(
        lambda c: conversations.find(c, owner, check_stored_id(name))
    )
    if talk is None:
        raise conversation_not_found(name)
    return talk


def item_not_found(name: str) -> NotFound:
    return NotFound(f"Item with id '{name[:64]}' not found.", param="item_id")


def render_conversation(talk: Conversation) -> Json:
    return {
        "id": talk.id,
        "object": "conversation",
        "created_at": int(talk.created),
        "metadata": talk.metadata,
    }


def render_item(said: ConversationItem) -> Json:
    return hide_tool_secrets_of(render_stored_item(said.data, said.id))
