"""Conversation state that outlives a request: stored responses, conversations and completions.

`ConversationStore` is the interface. `DatabaseConversationStore` uses a database, and
`NullConversationStore` replaces it if no database is configured. Both wrap handlers and streams and
depend neither on Flask nor on an SQL dialect. `background` runs responses without their client;
`repositories` and `db` access the database. Beside conversations, here are the owners of all stored
data (`owners.py`), the files of clients (`files.py`) and the database behind the reasoning cache
(`reasoning_cache.py`). Not here: the routes for stored objects (`server/stored_answers.py`,
`server/conversations.py`, `server/stored_files.py`), and the packages that call their repositories
themselves: `vector_stores`, `usage`, `models`, `client_keys`.

A request (`Gateway.stream`, in this order):

1. `make_recorder`, before any upstream is called. For a Responses client it locks the conversation
   (`conversation_lock.py`). For a Chat client with ``store: true`` it checks the request, and
   requests usage from the upstream.
2. `with_history`, a stage of each attempt. `read_history_reference` validates the parameters, and
   `HistoryRepository.read_history` finds the earlier items and the items that the input refers to.
   `UpstreamMemory` decides: an upstream that stored the previous response itself gets its own id
   for it; a history that only the upstream can know stays a parameter; otherwise `earlier_items.py`
   puts the items before the input. It corrects positions in errors, and repeats the call without
   media of earlier turns that no longer exist.
3. `ResponseRecorder.record` (or `CompletionRecorder.record`) wraps the answer. It replaces the id
   and sets the fields of the history in the opening events and the last one, collects the event
   log, and stores everything in one transaction before it passes the terminal event on. If that
   fails, the client gets an error instead. `include_filter.py` hides seals that only the store
   needs.

Routes read stored objects by the repositories, with `pagination.py` for lists, `items.py` to
complete items and `IncludeFilter` to hide fields that ``include`` does not name.

Without a database, a passed-through request is left to the upstream. For a translated one,
references to items of recent answers are resolved from memory
(`middleware/item_reference_cache.py`), and requests that need more are refused.

Rules:

- Each row of a client has an owner. `OwnerResolver.find_owner` may first move rows of earlier
  owners, so it is called only if something is stored or looked up. `derive_owner` needs no query.
- Ids of upstreams may collide. A stored answer keeps the id only if the upstream stores it too or
  if the forwarder made the id.
- The API stores responses by default. While the database is not writable, a response that need not
  be stored (no ``store``, no conversation, not in strict mode) is answered with ``store: false``
  and a note in the loss report. Otherwise StoreUnavailable is raised before the upstream is called.
- An answer whose stream raises is not stored, nor a completion that ends with an error. A response
  that ends with ``response.failed`` is stored, but its items are not added to the conversation.
- Stored data that becomes part of a request or an answer is counted before it is parsed
  (`StoredDataLimit`, ``spend``); too much raises TooLarge or Overloaded.

To add

- a kind of stored object: the steps in `storage.db` and `storage.repositories`, a module here for
  its checks and its API object, and routes that get store and owner from `open_store`
  (`server/stored_route_helpers.py`);
- a value of ``include``: `HIDDEN_FIELDS` in `include_filter.py`, and ``_INCLUDABLE_VALUES`` in
  `translation/responses_over_chat/request.py`;
- a type of item: see `protocols`. ``ITEM_TYPES`` and ``TYPES_WITH_STATUS`` follow its tables;
  ``ID_PREFIXES`` does not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import StoreUnavailable, Unsupported
from forwarder.core.in_flight_requests import InFlightRequests
from forwarder.core.stored_data_limit import DEFAULT_REQUEST_LIMITS, RequestLimits
from forwarder.core.types import EventStream, Handler, Json
from forwarder.middleware.item_reference_cache import RecentItems
from forwarder.middleware.reasoning_style import request_usage
from forwarder.protocols.input_items import make_previous_response_error
from forwarder.protocols.registry import CLIENT_PROTOCOLS
from forwarder.storage.background import BackgroundLimits, BackgroundRunner
from forwarder.storage.completion_recorder import (
    CompletionRecorder,
    check_stored_completion,
    is_completion_stored,
)
from forwarder.storage.conversation_history import with_history
from forwarder.storage.conversation_lock import ConversationLocks
from forwarder.storage.db import Database
from forwarder.storage.history_reference import (
    LOCAL_PARAMETERS,
    HistoryReference,
    UpstreamMemory,
    is_stored,
    read_history_reference,
)
from forwarder.storage.owners import OwnerResolver
from forwarder.storage.repositories.completions import CompletionRepository
from forwarder.storage.repositories.conversations import ConversationRepository
from forwarder.storage.repositories.history import ChainEnds, HistoryRepository
from forwarder.storage.repositories.responses import ResponseRepository
from forwarder.storage.response_recorder import ResponseRecorder

OriginGetter = Callable[[], str | None]
"""Returns the upstream that stores the response too, or None. Call it after the answer has begun.
"""


STORED_COMPLETION_PARAMETERS = frozenset({"store", "metadata"})
"""Parameters that are handled here when a completion is stored."""


class ConversationStore(ABC):
    """The conversation state that a request needs on its way to an upstream and back."""

    @abstractmethod
    def with_history(
        self, handler: Handler, context: RequestContext, memory: UpstreamMemory, translated: bool
    ) -> Handler:
        """Wrap a Responses handler: resolve or reject the history that its requests refer to."""

    def find_chain(self, response_id: str, context: RequestContext) -> ChainEnds | None:
        """Return the ends of the chain of responses that ends with this one; None if unknown."""
        return None

    @abstractmethod
    def list_local_parameters(self, client: str, request: Json, translated: bool) -> frozenset[str]:
        """Return the parameters that are handled here, so that no upstream has to support them."""

    @abstractmethod
    def is_answer_stored(self, request: Json) -> bool:
        """Whether the response to a request is stored, on its own or in a conversation."""

    @abstractmethod
    def make_recorder(
        self, client: str, request: Json, context: RequestContext, origin: OriginGetter
    ) -> Callable[[EventStream], EventStream]:
        """Return a wrapper that stores the answer while it is streamed to the client."""


class DatabaseConversationStore(ConversationStore):
    """State in a database; the repositories serve the routes for stored objects."""

    def __init__(
        self,
        database: Database,
        running: InFlightRequests,
        limits: BackgroundLimits | None = None,
        request_limits: RequestLimits = DEFAULT_REQUEST_LIMITS,
        owners: OwnerResolver | None = None,
    ) -> None:
        self._database = database
        self._owners = owners or OwnerResolver(database, ())
        self.request_limits = request_limits
        self.conversations = ConversationRepository(database)
        self.completions = CompletionRepository(database)
        self.history = HistoryRepository(database)
        self._responses = ResponseRepository(database)
        self._locks = ConversationLocks(database)
        self.background = BackgroundRunner(
            database, running, self._locks, limits, self._owners.migrate_owner
        )

    def find_owner(self, context: RequestContext) -> str:
        """Return the owner of the data that is stored for a request's client."""
        return self._owners.find_owner(context.client_key)

    def with_history(
        self, handler: Handler, context: RequestContext, memory: UpstreamMemory, translated: bool
    ) -> Handler:
        """Wrap a Responses handler: resolve the history that its requests refer to."""
        find_owner, drop = partial(self.find_owner, context), context.loss_report.drop
        return with_history(
            handler,
            self.history,
            find_owner,
            memory,
            drop,
            self.request_limits,
            lambda: context.added_memory,
        )

    def find_chain(self, response_id: str, context: RequestContext) -> ChainEnds | None:
        """Return the ends of the chain of responses that ends with this one; None if unknown."""
        return self.history.find_chain(self.find_owner(context), response_id)

    def list_local_parameters(self, client: str, request: Json, translated: bool) -> frozenset[str]:
        """Return the parameters that are handled here, so that no upstream has to support them.

        Response metadata is local only for translated requests; otherwise the upstream returns it.
        """
        if CLIENT_PROTOCOLS[client].stored_object == "chat.completion":
            return STORED_COMPLETION_PARAMETERS if request.get("store") is True else frozenset()
        stores_metadata = (
            translated and is_stored(request) and not self._database.write_breaker.is_open
        )
        return frozenset({"metadata"}) if stores_metadata else frozenset()

    def is_answer_stored(self, request: Json) -> bool:
        """Whether the response to a request is stored, on its own or in a conversation."""
        return is_stored(request) or read_history_reference(request).conversation is not None

    def make_recorder(
        self, client: str, request: Json, context: RequestContext, origin: OriginGetter
    ) -> Callable[[EventStream], EventStream]:
        """Return a wrapper that stores the answer while it is streamed to the client.

        Locks the request's conversation; raises ConversationLocked. May extend the request so that
        more is stored; the client does not receive the addition. Raises StoreUnavailable if the
        database is not writable and the answer has to be stored.
        """
        stored_object = CLIENT_PROTOCOLS[client].stored_object
        if stored_object == "response":
            reference = read_history_reference(request)
            can_store = self._can_store(request, reference, context)
            is_written = is_stored(request) or reference.conversation is not None
            owner = self.find_owner(context) if is_written else ""
            lock = None
            if reference.conversation is not None:
                lock = self._locks.acquire(owner, reference.conversation)
                context.cleanup.add(lock.release_now)
            recorder = ResponseRecorder(
                self._responses, owner, dict(request), origin, lock, can_store
            )
            return (
                recorder.record if can_store else partial(record_without_storing, recorder, context)
            )
        if stored_object != "chat.completion" or not is_completion_stored(request):
            return lambda stream: stream
        check_stored_completion(request)
        if self._database.write_breaker.is_open:
            raise StoreUnavailable
        owner = self.find_owner(context)
        completion = CompletionRecorder(self.completions, owner, dict(request), origin)
        request |= request_usage(request)
        return completion.record

    def _can_store(
        self, request: Json, reference: HistoryReference, context: RequestContext
    ) -> bool:
        """Return False if storage is optional and the database is not writable.

        The API stores responses by default; most clients that omit ``store`` do not need it.
        """
        if not self._database.write_breaker.is_open or not is_stored(request):
            return True
        if request.get("store") or reference.conversation is not None or context.loss_report.strict:
            raise StoreUnavailable
        return False


def record_without_storing(
    recorder: ResponseRecorder, context: RequestContext, stream: EventStream
) -> EventStream:
    context.loss_report.note("store", "the database is not available")
    return recorder.record(stream)


class NullConversationStore(ConversationStore):
    """State without a database: this process remembers recent items for a short time."""

    def __init__(self, limits: RequestLimits = DEFAULT_REQUEST_LIMITS) -> None:
        self._recent_items = RecentItems(limits=limits)

    def with_history(
        self, handler: Handler, context: RequestContext, memory: UpstreamMemory, translated: bool
    ) -> Handler:
        """Reject requests that need a database, unless the upstream may store them itself."""
        if not translated:
            return handler
        inner = self._recent_items.with_recent_items(
            handler, context.client_key, lambda: context.added_memory
        )

        def handle_request(request: Json) -> EventStream:
            refuse_stored_state(request)
            return inner({k: v for k, v in request.items() if k not in LOCAL_PARAMETERS})

        return handle_request

    def list_local_parameters(self, client: str, request: Json, translated: bool) -> frozenset[str]:
        """Return no parameters."""
        return frozenset()

    def is_answer_stored(self, request: Json) -> bool:
        """Return False."""
        return False

    def make_recorder(
        self, client: str, request: Json, context: RequestContext, origin: OriginGetter
    ) -> Callable[[EventStream], EventStream]:
        """Return a wrapper that stores nothing; report ``store`` as a loss to chat clients."""
        if CLIENT_PROTOCOLS[client].stored_object == "response" or not is_completion_stored(
            request
        ):
            return lambda stream: stream

        def drop_store(stream: EventStream) -> EventStream:
            # Again, because each attempt at an upstream starts a new loss report.
            context.loss_report.drop(*NOT_STORED_LOSS)
            return stream

        # In strict mode this rejects the request before it is sent.
        context.loss_report.drop(*NOT_STORED_LOSS)
        return drop_store


NOT_STORED_LOSS = "store", "this server has no database"


def refuse_stored_state(request: Json) -> None:
    """Raise an error if the request refers to stored data or asks for a background response."""
    reference = read_history_reference(request)
    if reference.previous is not None:
        raise make_previous_response_error(reference.previous, "This server stores no responses.")
    for name in ("conversation", "background"):
        if request.get(name):
            raise Unsupported(
                f"Unsupported parameter: '{name}'. This server has no database.", param=name
            )


__all__ = [
    "ConversationStore",
    "DatabaseConversationStore",
    "NullConversationStore",
    "OwnerResolver",
    "RequestLimits",
    "UpstreamMemory",
]
