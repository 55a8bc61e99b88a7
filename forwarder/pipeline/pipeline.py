"""What one request goes through on its way to one upstream, and its answer on the way back.

    wishes ─ memory ─ the model's own defaults ─ meter ─ compaction ─ images and files
      ─ what the protocol lacks ─ translation ─ reasoning recalled ─ what the upstream lacks
        ─ one of the `Terminal`: retries, and the upstream's call

Each is a call wrapped around the one behind it.  This is the only place that says which, and in
which order; what outlives a request is in `bridge.py`, which makes a path for each route it tries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from forwarder import middleware
from forwarder.config.settings import Settings
from forwarder.context.client_identity import hash_client_key
from forwarder.context.request_context import RequestContext
from forwarder.context.route import Route
from forwarder.core.client_headers import IDEMPOTENCY_KEY
from forwarder.core.encryption import TokenCipher
from forwarder.core.ids import ID_SOURCE
from forwarder.core.read_limit import ReadLimit, RequestLimits
from forwarder.core.schema_size import check_schema_sizes
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Handler, Json
from forwarder.middleware.compaction import (
    HandlerWrapper,
    has_compaction_trigger,
    make_compact_handler,
    with_compaction,
)
from forwarder.middleware.media import MediaIO, with_media
from forwarder.middleware.reasoning_cache import ReasoningCache
from forwarder.middleware.reasoning_cache.signatures import SignatureCache
from forwarder.middleware.reasoning_style import with_reasoning_style
from forwarder.protocols.client_reasoning_style import (
    AUTO,
    resolve_chat_style,
    resolve_responses_style,
    select_style,
)
from forwarder.protocols.stream_end import blame_upstream_for_malformed_events
from forwarder.protocols.tool_secrets import with_hidden_tools
from forwarder.providers import Profile, is_reasoning_model
from forwarder.storage import (
    ConversationStore,
    NullConversationStore,
    OwnerResolver,
    UpstreamMemory,
)
from forwarder.translation import translate_handler
from forwarder.upstream.client import Upstream

OLLAMA_PROTOCOLS = ("ollama", "ollama_generate")
"""Ollama's two ways of asking for an answer."""


class Terminal(NamedTuple):
    """Where a request leaves the forwarder: the upstream's call, and what is done for its media."""

    call: Handler
    hands: MediaIO


class PipelineServices(NamedTuple):
    """What paths are made with: of all that outlives a request, what is wrapped around calls."""

    settings: Settings
    sealer: TokenCipher
    recall: ReasoningCache
    signatures: SignatureCache
    owners: OwnerResolver
    state: ConversationStore | NullConversationStore


@dataclass(frozen=True)
class Pipeline:
    """The path of a ``client`` protocol's request over a route, which leads to ``upstream``.

    ``style`` is how this one request wants its reasoning.
    """

    kit: PipelineServices
    upstream: Upstream
    route: Route
    client: str
    style: str | None
    exchange: RequestContext

    def build(
        self, ends: Terminal, request: Json, compacting: HandlerWrapper = with_compaction
    ) -> Handler:
        """The call that ``request`` goes through, from the client's wishes to the ends."""
        check_schema_sizes(request, self.kit.settings.max_schema)
        if self.client in OLLAMA_PROTOCOLS:
            return self._build_ollama(ends, request)
        client, over = self.client, self.route.protocol
        profile = self.upstream.get_profile(self.route.model)
        call = self.route.defaults.with_upstream_defaults(
            ends.call, over, self._extra_parameters(profile), profile.drop
        )
        if over == "chat":
            truncation = choose_truncation(request, compacting) if client == "responses" else None
            call = middleware.with_chat_upstream_middleware(
                call, profile.response_format, truncation, self.kit.settings.max_schema_nodes
            )
        elif client == "chat" or not profile.keeps_responses:
            # One that keeps its own responses waits for the results of all calls in them.
            call = middleware.with_single_responses_call(call)
        terms = self._translation_context(profile)
        if client == "responses":
            stores = compacting is not make_compact_handler and self.kit.state.is_answer_stored(
                request
            )
            style = self._select_responses_style(request)
            terms = replace(terms, reasoning=style, stores_encrypted_reasoning=stores)
        call = self._with_reasoning_cache(call, profile, terms)
        call = translate_handler(call, client, over, terms)
        if client == "responses" == over:
            call = with_hidden_tools(call, request)
        if client == "chat" != over:
            settings = self.kit.settings
            if request.get("n") not in (None, 1):  # several requests, which are not repeats
                self.exchange.client_headers.pop(IDEMPOTENCY_KEY, None)
            call = middleware.with_responses_upstream_middleware(
                call, settings.stop_drain, settings.max_choices
            )
        call = with_media(call, client, over, profile, ends.hands)
        if client == "responses":
            call = compacting(call, terms, self.compacts_natively)
        call = self.route.defaults.with_client_defaults(
            self.exchange.meter(call), client, profile.drop
        )
        if client == "responses":
            memory = self._history_options(profile, compacting)
            call = self.kit.state.with_history(call, self.exchange, memory, client != over)
        if client == "chat":
            call = with_reasoning_style(call, self._select_chat_style(request))
        return blame_upstream_for_malformed_events(call)

    def _with_reasoning_cache(
        self, call: Handler, profile: Profile, terms: TranslationContext
    ) -> Handler:
        """The call with what clients cannot carry: reasoning items, and signatures."""
        if not self.kit.settings.reasoning_ttl:
            return call
        owner = self.kit.owners.derive_owner(self.exchange.client_key)
        whose = owner, self.route.upstream.name, self.route.model
        if self.route.protocol == "chat":
            return self.kit.signatures.with_signature_cache(call, whose, self.exchange.loss_report)
        if self.client == "chat" and profile.reasoning_items == "keep":
            return self.kit.recall.with_reasoning_cache(call, whose, terms.can_summarize)
        return call

    def build_embeddings(self, call: Handler) -> Handler:
        """The call that a request for embeddings goes through to the upstream's ``build``."""
        terms = self._translation_context(self.upstream.get_profile(self.route.model))
        metered = self.exchange.meter(call)
        return blame_upstream_for_malformed_events(
            translate_handler(metered, self.client, "embeddings", terms)
        )

    @property
    def compacts_natively(self) -> bool:
        """Does this upstream compact conversations itself?"""
        profile = self.upstream.get_profile(self.route.model)
        return self.route.protocol == "responses" and profile.compaction

    def _build_ollama(self, ends: Terminal, request: Json) -> Handler:
        """Ollama's API, worn outside the whole path of a chat client that has thoughts apart."""
        chat = replace(self, client="chat", style="reasoning_content")
        profile = self.upstream.get_profile(self.route.model)
        terms = replace(
            self._translation_context(profile), extensions=self._extra_parameters(profile)
        )
        return blame_upstream_for_malformed_events(
            translate_handler(chat.build(ends, request), self.client, "chat", terms)
        )

    def _extra_parameters(self, profile: Profile) -> frozenset[str]:
        """Sampling parameters that the upstream takes beyond those of its API."""
        over_chat = self.route.protocol == "chat"
        return profile.chat_takes if over_chat else profile.responses_takes

    def _translation_context(self, profile: Profile) -> TranslationContext:
        settings = self.kit.settings
        limits = RequestLimits(settings.max_body, settings.max_json_values)
        limit = ReadLimit(limits, subject="With what is sealed in it, the request")
        owner = hash_client_key(self.exchange.client_key)
        return TranslationContext(
            id_source=ID_SOURCE,
            loss_report=self.exchange.loss_report,
            encrypt=partial(self.kit.sealer.encrypt, owner=owner),
            decrypt=partial(self.kit.sealer.decrypt, owner=owner, spend=limit.spend),
            hosted_tools=self.kit.settings.hosted_tools,
            custom_tools=profile.custom_tools,
            web_search=profile.web_search_options,
            can_summarize=is_reasoning_model(profile, self.route.model),
            extensions=profile.responses_takes,
            server_calls=profile.server_calls,
            origin=f"{self.route.upstream.name}/{self.route.model}",
            caches_signatures=self.kit.settings.reasoning_ttl > 0,
            make_client_url=partial(build_file_link, self.exchange, self.route.upstream.name),
        )

    def _select_chat_style(self, request: Json) -> str | None:
        """The style of the answer; ``None`` where it passes through as the upstream spells it."""
        style = self._select_style("chat", self.kit.settings.chat_reasoning)
        if style == AUTO and self.route.protocol == "chat":
            return None
        return resolve_chat_style(style, request, self.exchange.rendered_field)

    def _select_responses_style(self, request: Json) -> str:
        style = self._select_style("responses", self.kit.settings.responses_reasoning)
        return resolve_responses_style(style, request)

    def _select_style(self, api: str, of_setting: str) -> str:
        of_key = self.kit.settings.key_reasoning.get(self.exchange.client_key or "", ())
        return select_style(api, self.style, of_key, of_setting)

    def _history_options(self, profile: Profile, compacting: HandlerWrapper) -> UpstreamMemory:
        upstream = self.route.upstream
        keeps = self.route.protocol == "responses" and profile.keeps_responses
        # What is compacted here has to be seen here.
        goes_on = compacting is not make_compact_handler or self.compacts_natively
        return UpstreamMemory(upstream.name, keeps, upstream.passthrough_key, goes_on)


def choose_truncation(request: Json, compacting: HandlerWrapper) -> Any:
    """What may be cut: for a summary whatever is too much, which is why one is made."""
    if compacting is make_compact_handler or has_compaction_trigger(request):
        return "auto"
    return request.get("truncation")


def build_file_link(exchange: RequestContext, upstream: str, path: str) -> str:
    """Where the client finds what the upstream has under a path."""
    return f"{exchange.get_base_url()}/v1{path}?upstream={upstream}"
