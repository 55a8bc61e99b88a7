"""What one request goes through on its way to one upstream, and its answer on the way back.

    wishes ─ memory ─ the model's own defaults ─ meter ─ compaction ─ images and files
      ─ what the protocol lacks ─ translation ─ reasoning recalled ─ what the upstream lacks
        ─ one of the `Ends`: retries, and the upstream's call

Each is a call wrapped around the one behind it.  This is the only place that says which, and in
which order; what outlives a request is in `bridge.py`, which makes a path for each route it tries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from forwarder import middleware
from forwarder.config.settings import Settings
from forwarder.context.client_identity import digest_key
from forwarder.context.request_context import Exchange
from forwarder.context.route import Route
from forwarder.core.client_headers import IDEMPOTENCY_KEY
from forwarder.core.encryption import Sealer
from forwarder.core.ids import MINT
from forwarder.core.read_limit import ReadLimit, RequestLimits
from forwarder.core.schema_size import check_schema_sizes
from forwarder.core.translation_context import Terms
from forwarder.core.types import Call, Json
from forwarder.middleware.compaction import Wrapper, as_compaction, is_triggered, with_compaction
from forwarder.middleware.media import Hands, with_media
from forwarder.middleware.reasoning_cache import Recall
from forwarder.middleware.reasoning_cache.signatures import SignatureRecall
from forwarder.middleware.reasoning_style import as_wished
from forwarder.protocols.client_reasoning_style import (
    AUTO,
    resolve_chat_style,
    resolve_responses_style,
    select_style,
)
from forwarder.protocols.stream_end import faulting_upstream
from forwarder.protocols.tool_secrets import with_hidden_tools
from forwarder.providers import Profile, is_reasoning_model
from forwarder.storage import Forgetful, Memory, Owners, Remembering
from forwarder.translation import adapt
from forwarder.upstream.client import Upstream

OLLAMA = ("ollama", "ollama_generate")
"""Ollama's two ways of asking for an answer."""


class Ends(NamedTuple):
    """Where a request leaves the forwarder: the upstream's call, and what is done for its media."""

    call: Call
    hands: Hands


class Kit(NamedTuple):
    """What paths are made with: of all that outlives a request, what is wrapped around calls."""

    settings: Settings
    sealer: Sealer
    recall: Recall
    signatures: SignatureRecall
    owners: Owners
    state: Remembering | Forgetful


@dataclass(frozen=True)
class Path:
    """The path of a ``client`` protocol's request over a route, which leads to ``upstream``.

    ``style`` is how this one request wants its reasoning.
    """

    kit: Kit
    upstream: Upstream
    route: Route
    client: str
    style: str | None
    exchange: Exchange

    def call(self, ends: Ends, request: Json, compacting: Wrapper = with_compaction) -> Call:
        """The call that ``request`` goes through, from the client's wishes to the ends."""
        check_schema_sizes(request, self.kit.settings.max_schema)
        if self.client in OLLAMA:
            return self._ollama(ends, request)
        client, over = self.client, self.route.protocol
        profile = self.upstream.profile_of(self.route.model)
        call = self.route.defaults.late(ends.call, over, self._takes(profile), profile.drop)
        if over == "chat":
            truncation = _truncation(request, compacting) if client == "responses" else None
            call = middleware.over_chat(
                call, profile.response_format, truncation, self.kit.settings.max_schema_nodes
            )
        elif client == "chat" or not profile.keeps_responses:
            # One that keeps its own responses waits for the results of all calls in them.
            call = middleware.with_one_item(call)
        terms = self._terms(profile)
        if client == "responses":
            stores = compacting is not as_compaction and self.kit.state.stores_answer(request)
            style = self._responses_style(request)
            terms = replace(terms, reasoning=style, stores_seals=stores)
        call = self._with_recall(call, profile, terms)
        call = adapt(call, client, over, terms)
        if client == "responses" == over:
            call = with_hidden_tools(call, request)
        if client == "chat" != over:
            settings = self.kit.settings
            if request.get("n") not in (None, 1):  # several requests, which are not repeats
                self.exchange.client_headers.pop(IDEMPOTENCY_KEY, None)
            call = middleware.over_responses(call, settings.stop_drain, settings.max_choices)
        call = with_media(call, client, over, profile, ends.hands)
        if client == "responses":
            call = compacting(call, terms, self.is_native)
        call = self.route.defaults.early(self.exchange.metered(call), client, profile.drop)
        if client == "responses":
            memory = self._memory(profile, compacting)
            call = self.kit.state.resumed(call, self.exchange, memory, client != over)
        if client == "chat":
            call = as_wished(call, self._chat_style(request))
        return faulting_upstream(call)

    def _with_recall(self, call: Call, profile: Profile, terms: Terms) -> Call:
        """The call with what clients cannot carry: reasoning items, and signatures."""
        if not self.kit.settings.reasoning_ttl:
            return call
        owner = self.kit.owners.derive(self.exchange.client_key)
        whose = owner, self.route.upstream.name, self.route.model
        if self.route.protocol == "chat":
            return self.kit.signatures.with_recall(call, whose, self.exchange.ledger)
        if self.client == "chat" and profile.reasoning_items == "keep":
            return self.kit.recall.recalling(call, whose, terms.summaries)
        return call

    def embedding(self, call: Call) -> Call:
        """The call that a request for embeddings goes through to the upstream's ``call``."""
        terms = self._terms(self.upstream.profile_of(self.route.model))
        metered = self.exchange.metered(call)
        return faulting_upstream(adapt(metered, self.client, "embeddings", terms))

    @property
    def is_native(self) -> bool:
        """Does this upstream compact conversations itself?"""
        profile = self.upstream.profile_of(self.route.model)
        return self.route.protocol == "responses" and profile.compaction

    def _ollama(self, ends: Ends, request: Json) -> Call:
        """Ollama's API, worn outside the whole path of a chat client that has thoughts apart."""
        chat = replace(self, client="chat", style="reasoning_content")
        profile = self.upstream.profile_of(self.route.model)
        terms = replace(self._terms(profile), takes=self._takes(profile))
        return faulting_upstream(adapt(chat.call(ends, request), self.client, "chat", terms))

    def _takes(self, profile: Profile) -> frozenset[str]:
        """Sampling parameters that the upstream takes beyond those of its API."""
        over_chat = self.route.protocol == "chat"
        return profile.chat_takes if over_chat else profile.responses_takes

    def _terms(self, profile: Profile) -> Terms:
        settings = self.kit.settings
        limits = RequestLimits(settings.max_body, settings.max_json_values)
        limit = ReadLimit(limits, subject="With what is sealed in it, the request")
        owner = digest_key(self.exchange.client_key)
        return Terms(
            mint=MINT,
            ledger=self.exchange.ledger,
            seal=partial(self.kit.sealer.seal, owner=owner),
            unseal=partial(self.kit.sealer.unseal, owner=owner, spend=limit.spend),
            hosted_tools=self.kit.settings.hosted_tools,
            custom_tools=profile.custom_tools,
            web_search=profile.web_search_options,
            summaries=is_reasoning_model(profile, self.route.model),
            takes=profile.responses_takes,
            server_calls=profile.server_calls,
            origin=f"{self.route.upstream.name}/{self.route.model}",
            recalls=self.kit.settings.reasoning_ttl > 0,
            link=partial(_link, self.exchange, self.route.upstream.name),
        )

    def _chat_style(self, request: Json) -> str | None:
        """The style of the answer; ``None`` where it passes through as the upstream spells it."""
        style = self._style("chat", self.kit.settings.chat_reasoning)
        if style == AUTO and self.route.protocol == "chat":
            return None
        return resolve_chat_style(style, request, self.exchange.rendered_field)

    def _responses_style(self, request: Json) -> str:
        style = self._style("responses", self.kit.settings.responses_reasoning)
        return resolve_responses_style(style, request)

    def _style(self, api: str, of_setting: str) -> str:
        of_key = self.kit.settings.key_reasoning.get(self.exchange.client_key or "", ())
        return select_style(api, self.style, of_key, of_setting)

    def _memory(self, profile: Profile, compacting: Wrapper) -> Memory:
        upstream = self.route.upstream
        keeps = self.route.protocol == "responses" and profile.keeps_responses
        # What is compacted here has to be seen here.
        goes_on = compacting is not as_compaction or self.is_native
        return Memory(upstream.name, keeps, upstream.passthrough_key, goes_on)


def _truncation(request: Json, compacting: Wrapper) -> Any:
    """What may be cut: for a summary whatever is too much, which is why one is made."""
    if compacting is as_compaction or is_triggered(request):
        return "auto"
    return request.get("truncation")


def _link(exchange: Exchange, upstream: str, path: str) -> str:
    """Where the client finds what the upstream has under a path."""
    return f"{exchange.address()}/v1{path}?upstream={upstream}"
