"""``/v1/conversations``: stored conversations and their items."""

from __future__ import annotations

import time

from flask import Blueprint, Response, request

from forwarder.core.errors import NotFound
from forwarder.core.ids import generate_id
from forwarder.core.types import Json
from forwarder.protocols.tool_secrets import hide_tool_secrets_of
from forwarder.server import request_hooks
from forwarder.server.serving import json_answer, read_json_body
from forwarder.server.stored_route_helpers import (
    answer_deletion,
    check_stored_id,
    make_stored_data_limit,
    open_store,
    read_new_metadata,
    require_found,
)
from forwarder.storage import DatabaseConversationStore
from forwarder.storage.db.conversations import Conversation, ConversationItem
from forwarder.storage.history_reference import conversation_not_found
from forwarder.storage.items import check_items, derive_id
from forwarder.storage.items import render_item as render_stored_item
from forwarder.storage.pagination import make_list, read_metadata, read_page

blueprint = Blueprint("conversations", __name__)

MAX_ITEMS_PER_REQUEST = 20
"""Maximum number of items that one request adds."""


@blueprint.post("/conversations")
def create() -> Response:
    """Create a conversation, optionally with items."""
    store, owner = open_store()
    body = read_json_body(request_hooks.current_context(), required=False)
    new_items = read_new_items(body) if body.get("items") is not None else []
    created = Conversation(generate_id("conv"), time.time(), read_metadata(body))
    store.conversations.create(owner, created, new_items)
    return json_answer(render_conversation(created))


@blueprint.get("/conversations/<name>")
def conversation(name: str) -> Response:
    """Return a conversation without its items."""
    store, owner = open_store()
    return json_answer(render_conversation(find_conversation(store, owner, name)))


@blueprint.post("/conversations/<name>")
def describe(name: str) -> Response:
    """Replace the metadata of a conversation."""
    store, owner = open_store()
    metadata = read_new_metadata()
    changed = store.conversations.set_metadata(owner, check_stored_id(name), metadata)
    return json_answer(render_conversation(require_found(changed, conversation_not_found(name))))


@blueprint.delete("/conversations/<name>")
def delete(name: str) -> Response:
    """Delete a conversation with its items."""
    store, owner = open_store()
    was_found = store.conversations.remove(owner, check_stored_id(name))
    return answer_deletion(was_found, name, "conversation.deleted", conversation_not_found(name))


@blueprint.post("/conversations/<name>/items")
def add_items(name: str) -> Response:
    """Append items to a conversation."""
    store, owner = open_store()
    new_items = read_new_items(read_json_body(request_hooks.current_context()))
    added = require_found(
        store.conversations.append_items(owner, check_stored_id(name), new_items),
        conversation_not_found(name),
    )
    return json_answer(make_list(list(map(render_item, added)), max(len(added), 1)))


@blueprint.get("/conversations/<name>/items")
def items(name: str) -> Response:
    """List a page of the items, by default newest first."""
    store, owner = open_store()
    page = read_page(request.args, "desc")
    find_conversation(store, owner, name)
    limit = make_stored_data_limit(store, "limit", "This page of the list")
    rows = store.conversations.list_page(owner, name, page, limit.spend)
    return json_answer(make_list(list(map(render_item, rows)), page.limit))


@blueprint.get("/conversations/<name>/items/<item_id>")
def item(name: str, item_id: str) -> Response:
    """Return an item."""
    store, owner = open_store()
    check_stored_id(item_id)
    row = store.conversations.find_item(owner, check_stored_id(name), item_id)
    return json_answer(render_item(require_found(row, item_not_found(item_id))))


@blueprint.delete("/conversations/<name>/items/<item_id>")
def delete_item(name: str, item_id: str) -> Response:
    """Delete an item. Returns the conversation."""
    store, owner = open_store()
    row = find_conversation(store, owner, name)
    if not store.conversations.remove_item(owner, name, check_stored_id(item_id)):
        raise item_not_found(item_id)
    return json_answer(render_conversation(row))


def read_new_items(body: Json) -> list[tuple[str, Json]]:
    """Return ``(id, item)`` for each item of a request body. Items without an id get one."""
    items = check_items(body.get("items"), "items", MAX_ITEMS_PER_REQUEST)
    batch = generate_id("items")
    return [(str(x.get("id") or derive_id(x, batch, i)), x) for i, x in enumerate(items)]


def find_conversation(store: DatabaseConversationStore, owner: str, name: str) -> Conversation:
    """Return a conversation. Raises NotFound."""
    found = store.conversations.find(owner, check_stored_id(name))
    return require_found(found, conversation_not_found(name))


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
