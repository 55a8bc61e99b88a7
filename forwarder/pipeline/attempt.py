"""One attempt to serve a request over one route: the input of the pipeline's stages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from forwarder.context.client_identity import hash_client_key
from forwarder.context.request_context import RequestContext, Route
from forwarder.core.ids import ID_SOURCE
from forwarder.core.stored_data_limit import RequestLimits, StoredDataLimit
from forwarder.core.translation_context import TranslationContext
from forwarder.core.types import Json
from forwarder.core.validate import DICT, check_type
from forwarder.hosted_tools import LoopContext
from forwarder.hosted_tools.tool_context import PrepareFileSearch, ToolClient
from forwarder.middleware.compaction import (
    HandlerWrapper,
    has_compaction_trigger,
    make_compact_handler,
    with_compaction,
)
from forwarder.middleware.media import MediaIO
from forwarder.protocols.chat import CHAT
from forwarder.protocols.client_reasoning_style import (
    resolve_chat_style,
    resolve_responses_style,
    select_style,
)
from forwarder.protocols.hosted_tool_names import EVERY_TOOL, expand_tool_names
from forwarder.protocols.protocol import AUTO_STYLE
from forwarder.protocols.responses import RESPONSES
from forwarder.providers import Profile, is_reasoning_model
from forwarder.services import Services
from forwarder.storage import UpstreamMemory
from forwarder.translation.chat_over_responses.request import make_search_tool
from forwarder.upstream.client import Upstream


@dataclass(frozen=True)
class Attempt:
    """A request of the ``client`` protocol over ``route``, which leads to ``upstream``.

    ``carried_client`` is the protocol of the client if ``client`` is its carrier.
    ``style`` is the reasoning style that this request asks for.  ``compaction`` wraps the handler
    of Responses requests: `with_compaction`, or `make_compact_handler` for ``/responses/compact``.
    With ``is_preview`` nothing is called.  ``file_search`` checks the client's tools of that type;
    None if they cannot run here.
    """

    services: Services
    upstream: Upstream
    route: Route
    client: str
    style: str | None
    context: RequestContext
    request: Json
    media_io: MediaIO
    compaction: HandlerWrapper = with_compaction
    is_preview: bool = False
    file_search: PrepareFileSearch | None = None
    carried_client: str | None = None

    @cached_property
    def profile(self) -> Profile:
        """The provider profile of the route's model."""
        return self.upstream.get_profile(self.route.model)

    @cached_property
    def native_tools(self) -> frozenset[str]:
        """The names of the hosted tools that the upstream runs itself."""
        named = self.route.upstream.hosted_tools
        if self.route.protocol == CHAT.name:
            searches = self.profile.web_search_options
            names = frozenset({"web_search"}) if searches else frozenset()
            return names if named is None else expand_tool_names(named) & {"web_search"}
        return self.profile.hosted_tools if named is None else named

    @cached_property
    def loop_context(self) -> LoopContext:
        """The inputs of the loop of hosted tools."""
        context = self.context
        is_chat = self.route.protocol == CHAT.name
        native = self.native_tools if context.runs_hosted_tools else frozenset({EVERY_TOOL})
        return self.services.hosted_tools.make_context(
            context,
            ToolClient(context.account_id or "", self.file_search, context.body_memory),
            native=expand_tool_names(native),
            knows_items=not is_chat,
            keeps_encrypted_reasoning=self.translation_context.stores_encrypted_reasoning,
            asks_encrypted_reasoning=is_chat or self.translation_context.can_summarize,
            keeps_calls=(self.carried_client or self.client) == RESPONSES.name,
            is_preview=self.is_preview,
            memory=context.tool_memory,
            on_call_end=context.notify_tool_call,
            on_round_end=context.record_rounds,
        )

    @property
    def searches_web(self) -> bool:
        """Whether a web search can run, at the upstream or here."""
        natively = "web_search" in expand_tool_names(self.native_tools)
        return natively or self.loop_context.find_kind({"type": "web_search"}) is not None

    @cached_property
    def extra_tools(self) -> list[Json]:
        """The operator's tools for all requests that can run here or at the upstream."""
        tools = self.services.hosted_tools.extra_tools
        runs_none = self.is_compaction or self.request.get("tool_choice") == "none"
        if not tools or runs_none or not self.context.runs_hosted_tools:
            return []
        native = self.loop_context.native if self.route.protocol == RESPONSES.name else frozenset()
        own = read_tool_names(self.request.get("tools"))  # a client's `web_search` takes precedence
        return [
            tool
            for tool in tools
            if (
                self.loop_context.find_kind(tool) is not None
                or (tool["type"] in native and tool["type"] != "mcp")
            )
            and tool["type"] not in own
        ]

    @cached_property
    def chat_tools(self) -> list[Json]:
        """The tools of a Chat request that run here, in the form of the Responses API."""
        options, tools = self.request.get("web_search_options"), self.extra_tools
        if options is not None and "web_search" not in self.loop_context.native:
            search = make_search_tool(check_type(options, DICT, "web_search_options"))
            others = [tool for tool in tools if tool["type"] != "web_search"]
            tools = [search, *others] if self.loop_context.find_kind(search) else others
        if self.route.protocol == RESPONSES.name and self._wants_image:
            tools = [*tools, {"type": "image_generation"}]
        return [tool for tool in tools if self.loop_context.find_kind(tool) is not None]

    @cached_property
    def runs_tools(self) -> bool:
        """Whether tools run here, so that the answer is composed of several upstream answers."""
        if self.client == RESPONSES.name:
            extra = any(self.loop_context.find_kind(tool) for tool in self.extra_tools)
            return extra or self.loop_context.is_needed(self.request)
        asks = self.request.keys() & {"web_search_options", "modalities"}
        may_run = asks or self.services.hosted_tools.extra_tools
        return self.client == CHAT.name and bool(may_run) and bool(self.chat_tools)

    @property
    def _wants_image(self) -> bool:
        """Whether the translation of a Chat request adds the tool that makes images."""
        modalities = self.request.get("modalities")
        wants = isinstance(modalities, list) and "image" in modalities
        return wants and "modalities" not in self.extra_parameters

    @property
    def is_compaction(self) -> bool:
        """Whether the request is one of ``/responses/compact``."""
        return self.compaction is make_compact_handler

    @property
    def compacts_natively(self) -> bool:
        """Whether this upstream compacts conversations itself."""
        return self.route.protocol == RESPONSES.name and self.profile.compaction

    @property
    def extra_parameters(self) -> frozenset[str]:
        """Sampling parameters that the upstream accepts beyond those of its API."""
        return self.profile.get_extra_parameters(self.route.protocol)

    @cached_property
    def translation_context(self) -> TranslationContext:
        """The inputs of the translators for this attempt."""
        settings, cipher = self.services.settings, self.services.cipher
        subject = "With its decrypted items, the request"
        limit = StoredDataLimit(self._limits, subject=subject, memory=self.context.added_memory)
        owner = hash_client_key(self.context.client_key)
        client_fields: dict[str, Any] = {}
        if self.client == RESPONSES.name:
            style = self._select_style(RESPONSES.name, settings.responses_reasoning)
            client_fields = {
                "reasoning": resolve_responses_style(style, self.request),
                "stores_encrypted_reasoning": not self.is_compaction
                and self.services.store.is_answer_stored(self.request),
            }
        return TranslationContext(
            id_source=ID_SOURCE,
            loss_report=self.context.loss_report,
            encrypt=partial(cipher.encrypt, owner=owner),
            decrypt=partial(cipher.decrypt, owner=owner, spend=limit.spend),
            hosted_tools=settings.hosted_tools,
            custom_tools=self.profile.custom_tools,
            web_search="web_search" in expand_tool_names(self.native_tools),
            can_summarize=is_reasoning_model(self.profile, self.route.model),
            extensions=self.profile.responses_takes,
            server_calls=self.profile.server_calls,
            origin=f"{self.route.upstream.name}/{self.route.model}",
            caches_signatures=settings.reasoning_ttl > 0,
            make_client_url=partial(make_file_url, self.context, self.route.upstream.origin),
            **client_fields,
        )

    def make_media_limit(self) -> StoredDataLimit:
        """Return the limit for images and files that the request refers to by URL or id."""
        return StoredDataLimit(
            self._limits,
            subject="With the images and files that it names, the request",
            memory=self.context.added_memory,
            used_bytes=self.context.body_size,
        )

    @property
    def _limits(self) -> RequestLimits:
        settings = self.services.settings
        return RequestLimits(settings.max_body, settings.max_json_values)

    @property
    def chat_style(self) -> str | None:
        """The reasoning style of a chat client; None passes reasoning through unchanged."""
        style = self._select_style(CHAT.name, self.services.settings.chat_reasoning)
        if style == AUTO_STYLE and self.route.protocol == CHAT.name:
            return None
        return resolve_chat_style(style, self.request, self.context.rendered_field)

    def _select_style(self, api: str, default_style: str) -> str:
        grants = self.context.grants
        if grants is not None:
            return select_style(api, self.style, grants.reasoning, default_style)
        keys = self.services.settings.key_reasoning
        return select_style(
            api, self.style, keys.get(self.context.client_key or "", ()), default_style
        )

    @property
    def upstream_memory(self) -> UpstreamMemory:
        """The upstream's storage properties for the history of this attempt."""
        upstream = self.route.upstream
        keeps = self.route.protocol == RESPONSES.name and self.profile.keeps_responses
        # A conversation that is compacted here has to be read here.
        can_continue = not self.is_compaction or self.compacts_natively
        # If tools run here, the upstream has not seen all rounds of the answer.
        can_continue = can_continue and not (keeps and self.runs_tools)
        return UpstreamMemory(upstream.origin, keeps, upstream.passthrough_key, can_continue)

    @property
    def truncation(self) -> Any:
        """The ``truncation`` of a Responses request; ``auto`` if a summary is requested."""
        if self.is_compaction or has_compaction_trigger(self.request):
            return "auto"
        return self.request.get("truncation")

    @property
    def cache_key(self) -> tuple[str, str, str]:
        """Owner, upstream and model, for which reasoning is cached."""
        owner = self.services.owners.derive_owner(self.context.client_key)
        return owner, self.route.upstream.name, self.route.model


def read_tool_names(tools: Any) -> set[str]:
    """Return the names of a client's tools, of Responses or nested as in Chat."""
    names = set()
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict):
            body = tool.get("function")
            names.add(str((body if isinstance(body, dict) else tool).get("name")))
    return names


def make_file_url(context: RequestContext, upstream: str, path: str) -> str:
    """Return the URL at the forwarder under which the client gets a path of the upstream."""
    return f"{context.get_base_url()}/v1{path}?upstream={upstream}"
