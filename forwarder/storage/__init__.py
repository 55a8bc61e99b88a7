"""State that outlives a request, between the routes and the upstreams' calls.

`Remembering` does what the store makes possible; `Forgetful` stands for it where nothing is
stored, and refuses what needs it.  Both are wrappers around calls and streams, and know neither
Flask nor SQL's dialects.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from forwarder.context.request_context import Exchange
from forwarder.core.errors import InvalidRequest, StoreUnavailable, Unsupported
from forwarder.core.read_limit import DEFAULT_LIMITS, RequestLimits
from forwarder.core.shutdown import Running
from forwarder.core.types import Call, Json, Stream
from forwarder.middleware.reasoning_style import with_usage
from forwarder.middleware.recent_items import Memory as Recent
from forwarder.storage.background import Background, Limits
from forwarder.storage.completion_recorder import CompletionKeeper, check, is_kept
from forwarder.storage.conversation_lock import Hold, Holds
from forwarder.storage.db import Database
from forwarder.storage.owners import Owners
from forwarder.storage.response_recorder import Keeper
from forwarder.storage.resume import OURS, Base, Memory, base_of, is_stored, resumed

Origin = Callable[[], str | None]
"""Gives the upstream that keeps the responses which it gives, once one has begun to."""


_STORED = frozenset({"store", "metadata"})
"""What asks for a completion to be stored, and what is stored with it."""


class Remembering:
    """With a store."""

    def __init__(
        self,
        database: Database,
        running: Running,
        limits: Limits | None = None,
        request_limits: RequestLimits = DEFAULT_LIMITS,
        owners: Owners | None = None,
    ) -> None:
        self.database = database
        self._owners = owners or Owners(database, ())
        self.request_limits = request_limits
        self._holds = Holds(database)
        self.background = Background(database, running, self._holds, limits, self._owners.settle)

    def find_owner(self, exchange: Exchange) -> str:
        """Whose everything is that is stored for the client of an exchange."""
        return self._owners.find(exchange.client_key)

    def resumed(self, call: Call, exchange: Exchange, memory: Memory, translated: bool) -> Call:
        """Wrap a call that speaks Responses so that its requests have what they stand on."""
        find_owner, drop = partial(self.find_owner, exchange), exchange.ledger.drop
        return resumed(call, self.database, find_owner, memory, drop, self.request_limits)

    def honours(self, client: str, request: Json, translated: bool) -> frozenset[str]:
        """Parameters that are honoured here for a request, so that no upstream need do it.

        The metadata of a response are what its own upstream says, unless it is made here.
        """
        if client == "chat":
            return _STORED if request.get("store") is True else frozenset()
        kept = translated and is_stored(request) and not self.database.writing.is_open
        return frozenset({"metadata"}) if kept else frozenset()

    def stores_answer(self, request: Json) -> bool:
        """Is the response to a request stored, by itself or in a conversation?"""
        return is_stored(request) or base_of(request).conversation is not None

    def kept(
        self, client: str, request: Json, exchange: Exchange, origin: Origin
    ) -> Callable[[Stream], Stream]:
        """What stores the answer to a request on its way to the client.

        The conversation in which it is given is held from here on; raises ConversationLocked.
        The request may ask for more afterwards, which is stored and which the client is not told.
        While the store cannot be written, raises StoreUnavailable for what has to be stored.
        """
        if client == "responses":
            base = base_of(request)
            can_store = self._can_store(request, base, exchange)
            owner = self.find_owner(exchange) if self.stores_answer(request) else ""
            hold = self._held(owner, base, exchange)
            keeper = Keeper(self.database, owner, dict(request), origin, hold, can_store)
            return keeper.kept if can_store else partial(_kept_nowhere, keeper, exchange)
        if client != "chat" or not is_kept(request):  # Ollama keeps nothing
            return lambda stream: stream
        check(request)
        if self.database.writing.is_open:
            raise StoreUnavailable
        owner = self.find_owner(exchange)
        completion = CompletionKeeper(self.database, owner, dict(request), origin)
        request |= with_usage(request)
        return completion.kept

    def _can_store(self, request: Json, base: Base, exchange: Exchange) -> bool:
        """False for a response that need not be stored, while none can be.

        The API stores responses by default, so most clients that say nothing want none of that.
        """
        if not self.database.writing.is_open or not is_stored(request):
            return True
        if request.get("store") or base.conversation is not None or exchange.ledger.strict:
            raise StoreUnavailable
        return False

    def _held(self, owner: str, base: Base, exchange: Exchange) -> Hold | None:
        if base.conversation is None:
            return None
        hold = self._holds.taken(owner, base.conversation)
        exchange.opened.add(hold.drop)
        return hold


def _kept_nowhere(keeper: Keeper, exchange: Exchange, stream: Stream) -> Stream:
    exchange.ledger.note("store", "the store does not answer")
    return keeper.kept(stream)


class Forgetful:
    """Without one: recent items are known for a while, by this process alone."""

    def __init__(self, limits: RequestLimits = DEFAULT_LIMITS) -> None:
        self._recent = Recent(limits=limits)

    def resumed(self, call: Call, exchange: Exchange, memory: Memory, translated: bool) -> Call:
        """Refuse what needs a store, unless the upstream may have one of its own."""
        if not translated:
            return call
        remembering = self._recent.remembering(call, exchange.client_key)

        def refuse_or_call(request: Json) -> Stream:
            _refuse(request)
            return remembering({k: v for k, v in request.items() if k not in OURS})

        return refuse_or_call

    def honours(self, client: str, request: Json, translated: bool) -> frozenset[str]:
        """Nothing is."""
        return frozenset()

    def stores_answer(self, request: Json) -> bool:
        """Nothing is."""
        return False

    def kept(
        self, client: str, request: Json, exchange: Exchange, origin: Origin
    ) -> Callable[[Stream], Stream]:
        """Nothing is; a chat client that asks for it is told."""
        if client == "responses" or not is_kept(request):
            return lambda stream: stream

        def dropping(stream: Stream) -> Stream:
            exchange.ledger.drop(*_NOT_STORED)
            return stream

        exchange.ledger.drop(*_NOT_STORED)  # before anybody is asked, if that refuses it
        return dropping


_NOT_STORED = "store", "nothing is stored here"


def _refuse(request: Json) -> None:
    base = base_of(request)
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


__all__ = ["Forgetful", "Memory", "Owners", "Remembering", "RequestLimits"]
