"""``/v1/conversations``: stored conversations and their items."""

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
"""Maximum number of items that one request adds."""


@blueprint.post("/conversations")
def create() -> Response:
    """Create a conversation, optionally with items."""
    state, owner = open_store()
    body = read_json_body(request_context.current_context(), required=False)
    new_items = read_new_items(body) if body.get("items") is not None else []
    created = Conversation(generate_id("conv"), time.time(), read_metadata(body, check_type))

    def write(connection: Any) -> None:
        conversations.create(connection, owner, created)
        conversations.append_items(connection, owner, created.id, new_items)

    state.database.write(write)
    return json_answer(render_conversation(created))


@blueprint.get("/conversations/<name>")
def conversation(name: str) -> Response:
    """Return a conversation without its items."""
    state, owner = open_store()
    return json_answer(render_conversation(find_conversation(state, owner, name)))


@blueprint.post("/conversations/<name>")
def describe(name: str) -> Response:
    """Replace the metadata of a conversation."""
    state, owner = open_store()
    metadata = read_metadata(
        read_json_body(request_context.current_context()), check_type, required=True
    )
    row = state.database.write(
        lambda c: conversations.set_metadata(c, owner, check_stored_id(name), metadata)
    )
    if row is None:
        raise conversation_not_found(name)
    return json_answer(render_conversation(row))


@blueprint.delete("/conversations/<name>")
def delete(name: str) -> Response:
    """Delete a conversation with its items."""
    state, owner = open_store()
    if not state.database.write(lambda c: conversations.remove(c, owner, check_stored_id(name))):
        raise conversation_not_found(name)
    return json_answer({"id": name, "object": "conversation.deleted", "deleted": True})


@blueprint.post("/conversations/<name>/items")
def add_items(name: str) -> Response:
    """Append items to a conversation."""
    state, owner = open_store()
    new_items = read_new_items(read_json_body(request_context.current_context()))
    added = state.database.write(
        lambda c: conversations.append_items(c, owner, check_stored_id(name), new_items)
    )
    if added is None:
        raise conversation_not_found(name)
    return json_answer(make_list(list(map(render_item, added)), max(len(added), 1)))


@blueprint.get("/conversations/<name>/items")
def items(name: str) -> Response:
    """List a page of the items, by default newest first."""
    state, owner = open_store()
    page = read_page(request.args, "desc")
    find_conversation(state, owner, name)

    def read(connection: Any) -> list[ConversationItem]:
        after = find_page_start(
            page, lambda x: conversations.find_item_position(connection, owner, name, x)
        )
        limit = ReadLimit(state.request_limits, "limit", "This page of the list")
        return conversations.list_items(
            connection, owner, name, after, page.limit + 1, page.is_descending, limit.spend
        )

    rows = state.database.read(read)
    return json_answer(make_list(list(map(render_item, rows)), page.limit))


@blueprint.get("/conversations/<name>/items/<item_id>")
def item(name: str, item_id: str) -> Response:
    """Return an item."""
    state, owner = open_store()
    only = [check_stored_id(item_id)]
    rows = state.database.read(
        lambda c: conversations.read_items(c, owner, check_stored_id(name), only)
    )
    if not rows:
        raise item_not_found(item_id)
    return json_answer(render_item(rows[0]))


@blueprint.delete("/conversations/<name>/items/<item_id>")
def delete_item(name: str, item_id: str) -> Response:
    """Delete an item. Returns the conversation."""
    state, owner = open_store()
    row = find_conversation(state, owner, name)
    key = owner, name, check_stored_id(item_id)
    if not state.database.write(lambda c: conversations.remove_item(c, *key)):
        raise item_not_found(item_id)
    return json_answer(render_conversation(row))


def read_new_items(body: Json) -> list[tuple[str, Json]]:
    """Return ``(id, item)`` for each item of a request body. Items without an id get one."""
    items = checked_items(body.get("items"), "items", MAX_ITEMS_PER_REQUEST)
    batch = generate_id("items")
    return [(str(x.get("id") or derive_id(x, batch, i)), x) for i, x in enumerate(items)]


def find_conversation(state: Any, owner: str, name: str) -> Conversation:
    row: Conversation | None = state.database.read(
        lambda c: conversations.find(c, owner, check_stored_id(name))
    )
    if row is None:
        raise conversation_not_found(name)
    return row


def item_not_found(name: str) -> NotFound:
    return NotFound(f"Item with id '{name[:64]}' not found.", param="item_id")


def render_conversation(row: Conversation) -> Json:
    return {
        "id": row.id,
        "object": "conversation",
        "created_at": int(row.created),
        "metadata": row.metadata,
    }


def render_item(item: ConversationItem) -> Json:
    return hide_tool_secrets_of(render_stored_item(item.data, item.id))
