"""Keeps recent output items in memory, so that clients can refer to them by id.

A wrapper around any Responses handler. Clients that assume their responses are stored (the API's
default) send an ``item_reference`` instead of an earlier item. The items are bounded in size,
separate for each client key, and local to this process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import orjson
from cachetools import LRUCache

from forwarder.context.client_identity import hash_client_key
from forwarder.core.body_memory import BodyReservation
from forwarder.core.stored_data_limit import DEFAULT_REQUEST_LIMITS, RequestLimits, StoredDataLimit
from forwarder.core.types import Batch, EventStream, Handler, Json
from forwarder.protocols.chat_responses_mappings import TERMINAL_EVENTS
from forwarder.protocols.input_items import list_item_references, replace_item_references

MAX_REMEMBERED_BYTES = 64 * 2**20
"""Size limit in bytes of the JSON of all kept items in one process."""


class RecentItems:
    """The items of recent answers; the least recently used are evicted first."""

    def __init__(
        self, max_bytes: int = MAX_REMEMBERED_BYTES, limits: RequestLimits = DEFAULT_REQUEST_LIMITS
    ) -> None:
        self._limits = limits
        self._items: LRUCache[tuple[str, str], bytes] = LRUCache(max_bytes, getsizeof=len)
        self._lock = threading.Lock()

    def with_recent_items(
        self,
        handler: Handler,
        client_key: str | None,
        get_reservation: Callable[[], BodyReservation | None] = lambda: None,
    ) -> Handler:
        """Wrap a handler: resolve references in requests and keep the items of responses.

        ``get_reservation`` returns the reservation for the memory of the items.  The handler raises
        an error if the resolved request exceeds the request limits.
        """
        owner = hash_client_key(client_key)

        def handle_request(request: Json) -> EventStream:
            stream = handler(self._resolve_references(request, owner, get_reservation))
            return stream if request.get("store") is False else self._record_stream(stream, owner)

        return handle_request

    def _resolve_references(
        self, request: Json, owner: str, get_reservation: Callable[[], BodyReservation | None]
    ) -> Json:
        """Replace references; the translator rejects those to unknown items."""
        names = list_item_references(request.get("input"))
        if not names:
            return request
        with self._lock:
            found = {name: self._items.get((owner, name)) for name in names}
        limit = StoredDataLimit(self._limits, "input", memory=get_reservation())
        limit.spend_request(request)
        for name in names:
            limit.spend(found[name] or b"")
        items = {name: orjson.loads(data) for name, data in found.items() if data is not None}
        return {**request, "input": replace_item_references(request["input"], items)}

    def _record_stream(self, stream: EventStream, owner: str) -> EventStream:
        for batch in stream:
            self._store_items(batch, owner)
            yield batch

    def _store_items(self, batch: Batch, owner: str) -> None:
        if not batch or batch[-1].get("type") not in TERMINAL_EVENTS:
            return
        with self._lock:
            for item in batch[-1]["response"].get("output") or ():
                data = orjson.dumps(item)
                if len(data) <= self._items.maxsize:
                    self._items[owner, item["id"]] = data
