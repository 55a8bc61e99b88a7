"""Keeps recent output items in memory, so that clients can refer to them by id.

A wrapper around any Responses handler. Clients that assume their responses are stored (the API's
default) send an ``item_reference`` instead of an earlier item. The items are bounded in size,
separate for each client key, and local to this process.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import orjson

from forwarder.context.client_identity import hash_client_key
from forwarder.core.read_limit import DEFAULT_REQUEST_LIMITS, ReadLimit, RequestLimits
from forwarder.core.types import Batch, EventStream, Handler, Json
from forwarder.protocols.mappings import TERMINAL_EVENTS

MAX_REMEMBERED_BYTES = 64 * 2**20
"""Size limit in bytes of the JSON of all kept items in one process."""


class RecentItems:
    """The items of recent answers; the oldest are evicted first."""

    def __init__(
        self, max_bytes: int = MAX_REMEMBERED_BYTES, limits: RequestLimits = DEFAULT_REQUEST_LIMITS
    ) -> None:
        self._limits = limits
        self._max_bytes = max_bytes
        self._bytes = 0
        self._items: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def with_recent_items(self, handler: Handler, client_key: str | None) -> Handler:
        """Wrap a handler: resolve references in requests and keep the items of responses.

        The handler raises an error if the resolved request exceeds the request limits.
        """
        owner = hash_client_key(client_key)

        def handle_request(request: Json) -> EventStream:
            stream = handler(self._resolve_references(request, owner))
            return stream if request.get("store") is False else self._record_stream(stream, owner)

        return handle_request

    def _resolve_references(self, request: Json, owner: str) -> Json:
        items = request.get("input")
        if not isinstance(items, list) or not any(map(is_item_reference, items)):
            return request
        limit = ReadLimit(self._limits, "input")
        limit.spend_value(request)
        resolved = [self._find_item(owner, i, limit) if is_item_reference(i) else i for i in items]
        return {**request, "input": resolved}

    def _find_item(self, owner: str, reference: Json, limit: ReadLimit) -> Json:
        """Return the item, or the unknown reference itself, which the translator rejects."""
        data = self._items.get((owner, str(reference.get("id"))))
        if data is None:
            return reference
        limit.spend(data)
        item: Json = orjson.loads(data)
        return item

    def _record_stream(self, stream: EventStream, owner: str) -> EventStream:
        for batch in stream:
            self._store_items(batch, owner)
            yield batch

    def _store_items(self, batch: Batch, owner: str) -> None:
        if not batch or batch[-1].get("type") not in TERMINAL_EVENTS:
            return
        for item in batch[-1]["response"].get("output") or ():
            data, before = orjson.dumps(item), self._items.pop((owner, item["id"]), b"")
            self._items[owner, item["id"]] = data
            self._bytes += len(data) - len(before)
        while self._bytes > self._max_bytes:
            _, data = self._items.popitem(last=False)
            self._bytes -= len(data)


def is_item_reference(item: Any) -> bool:
    if not isinstance(item, dict) or "id" not in item:
        return False
    return item.get("type") == "item_reference" or not ("type" in item or "role" in item)
