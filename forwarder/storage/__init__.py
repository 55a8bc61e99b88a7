"""State that outlives a request, between the routes and the upstreams' calls.

`ConversationStore` does what the store makes possible; `NullConversationStore` stands for it where nothing is
stored, and refuses what needs it.  Both are wrappers around calls and streams, and know neither
Flask nor SQL's dialects.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import InvalidRequest, StoreUnavailable, Unsupported
from forwarder.core.read_limit import DEFAULT_REQUEST_LIMITS, RequestLimits
from forwarder.core.shutdown import InFlightRequests
from forwarder.core.types import EventStream, Handler, Json
from forwarder.middleware.reasoning_style import request_usage
from forwarder.middleware.recent_items import RecentItems as Recent
from forwarder.storage.background import BackgroundLimits, BackgroundRunner
from forwarder.storage.completion_recorder import (
    CompletionRecorder,
    check_stored_completion,
    is_completion_stored,
)
from forwarder.storage.conversation_lock import ConversationLock, ConversationLocks
from forwarder.storage.db import Database
from forwarder.storage.owners import OwnerResolver
from forwarder.storage.response_recorder import ResponseRecorder
from forwarder.storage.resume import (
    LOCAL_PARAMETERS,
    HistoryReference,
    UpstreamMemory,
    is_stored,
    read_history_reference,
    with_history,
)

OriginGetter = Callable[[], str | None]
"""Gives the upstream that keeps the responses which it gives, once one has begun to."""


STORED_COMPLETION_PARAMETERS = frozenset({"store", "metadata"})
"""What asks for a completion to be stored, and what is stored with it."""


class ConversationStore:
    """With a store."""

    def __init__(
        self,
        database: Database,
        running: InFlightRequests,
        limits: BackgroundLimits | None = None,
        request_limits: RequestLimits = DEFAULT_REQUEST_LIMITS,
        owners: OwnerResolver | None = None,
    ) -> None:
        self.database = database
        self._owners = owners or OwnerResolver(database, ())
        self.request_limits = request_limits
        self._locks = ConversationLocks(database)
        self.background = BackgroundRunner(
            database, running, self._locks, limits, self._owners.migrate_owner
        )

    def find_owner(self, exchange: RequestContext) -> str:
        """Whose everything is that is stored for the client of an exchange."""
        return self._owners.find_owner(exchange.client_key)

    def with_history(
        self, call: Handler, exchange: RequestContext, memory: UpstreamMemory, translated: bool
    ) -> Handler:
        """Wrap a call that speaks Responses so that its requests have what they stand on."""
        find_owner, drop = partial(self.find_owner, exchange), exchange.loss_report.drop
        return with_history(call, self.database, find_owner, memory, drop, self.request_limits)

    def list_local_parameters(self, client: str, request: Json, translated: bool) -> frozenset[str]:
        """Parameters that are honoured here for a request, so that no upstream need do it.

        The metadata of a response are what its own upstream says, unless it is made here.
        """
        if client == "chat":
            return STORED_COMPLETION_PARAMETERS if request.get("store") is True else frozenset()
        kept = translated and is_stored(request) and not self.database.write_breaker.is_open
        return frozenset({"metadata"}) if kept else frozenset()

    def is_answer_stored(self, request: Json) -> bool:
        """Is the response to a request stored, by itself or in a conversation?"""
        return is_stored(request) or read_history_reference(request).conversation is not None

    def make_recorder(
        self, client: str, request: Json, exchange: RequestContext, origin: OriginGetter
    ) -> Callable[[EventStream], EventStream]:
        """What stores the answer to a request on its way to the client.

        The conversation in which it is given is held from here on; raises ConversationLocked.
        The request may ask for more afterwards, which is stored and which the client is not told.
        While the store cannot be written, raises StoreUnavailable for what has to be stored.
        """
        if client == "responses":
            base = read_history_reference(request)
            can_store = self._can_store(request, base, exchange)
            owner = self.find_owner(exchange) if self.is_answer_stored(request) else ""
            hold = self._lock_conversation(owner, base, exchange)
            keeper = ResponseRecorder(self.database, owner, dict(request), origin, hold, can_store)
            return keeper.record if can_store else partial(record_without_storing, keeper, exchange)
        if client != "chat" or not is_completion_stored(request):  # Ollama keeps nothing
            return lambda stream: stream
        check_stored_completion(request)
        if self.database.write_breaker.is_open:
            raise StoreUnavailable
        owner = self.find_owner(exchange)
        completion = CompletionRecorder(self.database, owner, dict(request), origin)
        request |= request_usage(request)
        return completion.record

    def _can_store(self, request: Json, base: HistoryReference, exchange: RequestContext) -> bool:
        """False for a response that need not be stored, while none can be.

        The API stores responses by default, so most clients that say nothing want none of that.
        """
        if not self.database.write_breaker.is_open or not is_stored(request):
            return True
        if request.get("store") or base.conversation is not None or exchange.loss_report.strict:
            raise StoreUnavailable
        return False

    def _lock_conversation(
        self, owner: str, base: HistoryReference, exchange: RequestContext
    ) -> ConversationLock | None:
        if base.conversation is None:
            return None
        hold = self._locks.acquire(owner, base.conversation)
        exchange.cleanup.add(hold.release_now)
        return hold


def record_without_storing(
    keeper: ResponseRecorder, exchange: RequestContext, stream: EventStream
) -> EventStream:
    exchange.loss_report.note("store", "the store does not answer")
    return keeper.record(stream)


class NullConversationStore:
    """Without one: recent items are known for a while, by this process alone."""

    def __init__(self, limits: RequestLimits = DEFAULT_REQUEST_LIMITS) -> None:
        self._recent_items = Recent(limits=limits)

    def with_history(
        self, call: Handler, exchange: RequestContext, memory: UpstreamMemory, translated: bool
    ) -> Handler:
        """Refuse what needs a store, unless the upstream may have one of its own."""
        if not translated:
            return call
        remembering = self._recent_items.with_recent_items(call, exchange.client_key)

        def handle_request(request: Json) -> EventStream:
            refuse_stored_state(request)
            return remembering({k: v for k, v in request.items() if k not in LOCAL_PARAMETERS})

        return handle_request

    def list_local_parameters(self, client: str, request: Json, translated: bool) -> frozenset[str]:
        """Nothing is."""
        return frozenset()

    def is_answer_stored(self, request: Json) -> bool:
        """Nothing is."""
        return False

    def make_recorder(
        self, client: str, request: Json, exchange: RequestContext, origin: OriginGetter
    ) -> Callable[[EventStream], EventStream]:
        """Nothing is; a chat client that asks for it is told."""
        if client == "responses" or not is_completion_stored(request):
            return lambda stream: stream

        def drop_store(stream: EventStream) -> EventStream:
            exchange.loss_report.drop(*NOT_STORED_LOSS)
            return stream

        exchange.loss_report.drop(*NOT_STORED_LOSS)  # before anybody is asked, if that refuses it
        return drop_store


NOT_STORED_LOSS = "store", "nothing is stored here"


def refuse_stored_state(request: Json) -> None:
    base = read_history_reference(request)
    if base.previous is not None:
        raise InvalidRequest(
            "Previous response with that id not found: no response is stored.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    for name in ("conversation", "background"):
        if request.get(name):
            raise Unsupported(
                f"Unsupported parameter: '{name}'. Here, nothing is stored.", param=name
            )


__all__ = [
    "ConversationStore",
    "NullConversationStore",
    "OwnerResolver",
    "RequestLimits",
    "UpstreamMemory",
]
