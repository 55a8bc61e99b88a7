"""Declares the order of the stages between a client and an upstream.

A stage wraps a handler.  The request passes the stages from the first to the last, and the stream
of the answer passes them back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from forwarder.core.types import EventStream, Handler, Json
from forwarder.core.validate import STR, check_enum, check_type
from forwarder.hosted_tools import (
    with_dropped_tools,
    with_extra_tools,
    with_hosted_chat_tools,
    with_hosted_tools,
    with_search_parameter_names,
    with_unstored_rounds,
)
from forwarder.middleware.annotations_of_cut_answers import with_cut_annotations
from forwarder.middleware.json_schema import with_json_schema
from forwarder.middleware.media import with_media
from forwarder.middleware.messages_stop_and_token_limit import with_messages_limits
from forwarder.middleware.multiple_choices import with_multiple_choices
from forwarder.middleware.reasoning_style import with_reasoning_style
from forwarder.middleware.single_tool_call_chat import with_single_chat_tool_call
from forwarder.middleware.single_tool_call_responses import with_single_responses_tool_call
from forwarder.middleware.stop_sequences import with_stop_sequences
from forwarder.middleware.token_limit import with_token_limit
from forwarder.middleware.truncation import with_truncation
from forwarder.pipeline.attempt import Attempt
from forwarder.pipeline.schema_size import check_schema_sizes
from forwarder.protocols.chat import CHAT
from forwarder.protocols.hosted_tool_names import EVERY_TOOL
from forwarder.protocols.messages import MESSAGES
from forwarder.protocols.protocol import Carrier
from forwarder.protocols.registry import CLIENT_PROTOCOLS, EMBEDDINGS
from forwarder.protocols.responses import RESPONSES
from forwarder.protocols.stream_end import with_malformed_event_errors
from forwarder.protocols.tool_secrets import with_hidden_tool_secrets
from forwarder.translation import translate_handler

# -- which attempts a stage applies to ---------------------------------------------------------


class AttemptKind(NamedTuple):
    """The facts that select the stages of an attempt; ``over`` is the upstream's protocol."""

    client: str
    over: str
    upstream_keeps_responses: bool
    upstream_needs_reasoning: bool
    caches_reasoning: bool


def get_kind(attempt: Attempt) -> AttemptKind:
    profile = attempt.profile
    return AttemptKind(
        attempt.client,
        attempt.route.protocol,
        profile.keeps_responses,
        profile.reasoning_items == "keep",
        attempt.services.settings.reasoning_ttl > 0,
    )


def is_any(kind: AttemptKind) -> bool:
    return True


def is_chat_client(kind: AttemptKind) -> bool:
    return kind.client == CHAT.name


def is_responses_client(kind: AttemptKind) -> bool:
    return kind.client == RESPONSES.name


def is_chat_over_responses(kind: AttemptKind) -> bool:
    return is_chat_client(kind) and kind.over == RESPONSES.name


def is_responses_passthrough(kind: AttemptKind) -> bool:
    return is_responses_client(kind) and kind.over == RESPONSES.name


def is_chat_passthrough(kind: AttemptKind) -> bool:
    return is_chat_client(kind) and is_chat_upstream(kind)


def is_chat_upstream(kind: AttemptKind) -> bool:
    return kind.over == CHAT.name


def is_messages_over_responses(kind: AttemptKind) -> bool:
    return kind.client == MESSAGES.name and kind.over == RESPONSES.name


def is_translated(kind: AttemptKind) -> bool:
    return kind.client != kind.over


def needs_single_responses_call(kind: AttemptKind) -> bool:
    """Return whether calls after the first may be dropped.

    An upstream that stores its responses waits for the results of all calls in them.
    """
    is_kept = is_responses_client(kind) and kind.upstream_keeps_responses
    return kind.over == RESPONSES.name and not is_kept


def uses_signature_cache(kind: AttemptKind) -> bool:
    return kind.caches_reasoning and is_chat_upstream(kind)


def uses_reasoning_cache(kind: AttemptKind) -> bool:
    return kind.caches_reasoning and is_chat_over_responses(kind) and kind.upstream_needs_reasoning


# -- stages ------------------------------------------------------------------------------------


def wrap_reasoning_style(handler: Handler, attempt: Attempt) -> Handler:
    return with_reasoning_style(handler, attempt.chat_style)


def wrap_history(handler: Handler, attempt: Attempt) -> Handler:
    crosses_protocols = attempt.client != attempt.route.protocol
    store = attempt.services.store
    return store.with_history(handler, attempt.context, attempt.upstream_memory, crosses_protocols)


def wrap_client_defaults(handler: Handler, attempt: Attempt) -> Handler:
    defaults = attempt.route.defaults
    return defaults.with_client_defaults(handler, attempt.client, attempt.profile.drop)


def wrap_metering(handler: Handler, attempt: Attempt) -> Handler:
    return attempt.context.with_metering(handler)


def wrap_compaction(handler: Handler, attempt: Attempt) -> Handler:
    return attempt.compaction(handler, attempt.translation_context, attempt.compacts_natively)


def wrap_extra_tools(handler: Handler, attempt: Attempt) -> Handler:
    tools = attempt.extra_tools
    return with_extra_tools(handler, tools) if tools else handler


def wrap_choices_of_chat_tools(handler: Handler, attempt: Attempt) -> Handler:
    return wrap_multiple_choices(handler, attempt) if attempt.runs_tools else handler


def wrap_chat_tools(handler: Handler, attempt: Attempt) -> Handler:
    if not attempt.runs_tools or attempt.request.get("functions"):
        return handler
    attempt.context.is_answer_composed = True
    context, loss_report = attempt.loop_context, attempt.context.loss_report
    return with_hosted_chat_tools(handler, attempt.chat_tools, context, loss_report)


def wrap_translated_tools(handler: Handler, attempt: Attempt) -> Handler:
    """Run the tools of a Chat client on the translated Responses request."""
    if attempt.runs_tools:
        handler = with_search_parameter_names(wrap_hosted_tools(handler, attempt))
    return wrap_extra_tools(handler, attempt)


def wrap_hosted_tools(handler: Handler, attempt: Attempt) -> Handler:
    context = attempt.loop_context
    if not context.kinds or (attempt.compacts_natively and attempt.is_compaction):
        return handler
    if attempt.runs_tools:
        attempt.context.is_answer_composed = True
        if attempt.profile.keeps_responses and attempt.route.protocol == RESPONSES.name:
            handler = with_unstored_rounds(handler)
    return with_hosted_tools(handler, context)


def wrap_dropped_tools(handler: Handler, attempt: Attempt) -> Handler:
    if EVERY_TOOL in attempt.native_tools:
        return handler
    refuses = attempt.services.settings.hosted_tools == "refuse"
    return with_dropped_tools(handler, attempt.native_tools, attempt.context.loss_report, refuses)


def wrap_media(handler: Handler, attempt: Attempt) -> Handler:
    over = attempt.route.protocol
    return with_media(
        handler,
        attempt.client,
        over,
        attempt.profile,
        attempt.media_io,
        attempt.make_media_limit,
    )


def wrap_multiple_choices(handler: Handler, attempt: Attempt) -> Handler:
    if attempt.request.get("n") not in (None, 1):
        attempt.context.is_answer_composed = True
    return with_multiple_choices(handler, attempt.services.settings.max_choices)


def wrap_cut_annotations(handler: Handler, attempt: Attempt) -> Handler:
    return with_cut_annotations(handler)


def wrap_stop_sequences(handler: Handler, attempt: Attempt) -> Handler:
    return with_stop_sequences(handler, attempt.services.settings.stop_drain)


def wrap_token_limit(handler: Handler, attempt: Attempt) -> Handler:
    return with_token_limit(handler)


def wrap_messages_limits(handler: Handler, attempt: Attempt) -> Handler:
    drain = attempt.services.settings.stop_drain
    return with_messages_limits(handler, drain, attempt.context.record_estimate)


def wrap_hidden_tools(handler: Handler, attempt: Attempt) -> Handler:
    return with_hidden_tool_secrets(handler, attempt.request)


def wrap_translation(handler: Handler, attempt: Attempt) -> Handler:
    over = attempt.route.protocol
    return translate_handler(handler, attempt.client, over, attempt.translation_context)


def wrap_signature_cache(handler: Handler, attempt: Attempt) -> Handler:
    cache = attempt.services.signature_cache
    return cache.with_signature_cache(handler, attempt.cache_key, attempt.context.loss_report)


def wrap_reasoning_cache(handler: Handler, attempt: Attempt) -> Handler:
    cache, summarizes = attempt.services.reasoning_cache, attempt.translation_context.can_summarize
    return cache.with_reasoning_cache(handler, attempt.cache_key, summarizes)


def wrap_single_responses_call(handler: Handler, attempt: Attempt) -> Handler:
    return with_single_responses_tool_call(handler)


def wrap_single_chat_call(handler: Handler, attempt: Attempt) -> Handler:
    return with_single_chat_tool_call(handler)


def wrap_json_schema(handler: Handler, attempt: Attempt) -> Handler:
    max_nodes = attempt.services.settings.max_schema_nodes
    return with_json_schema(handler, attempt.profile.response_format, max_nodes)


def wrap_truncation(handler: Handler, attempt: Attempt) -> Handler:
    truncation = attempt.truncation if attempt.client == RESPONSES.name else None
    if truncation is not None:
        check_enum(check_type(truncation, STR, "truncation"), ("auto", "disabled"), "truncation")
    return with_truncation(handler) if truncation == "auto" else handler


def wrap_upstream_defaults(handler: Handler, attempt: Attempt) -> Handler:
    return attempt.route.defaults.with_upstream_defaults(
        handler, attempt.route.protocol, attempt.extra_parameters, attempt.profile.drop
    )


Wrap = Callable[[Handler, Attempt], Handler]


class Stage(NamedTuple):
    """A wrapper around handlers, and the attempts that it applies to."""

    applies: Callable[[AttemptKind], bool]
    wrap: Wrap


PIPELINE = (
    Stage(is_chat_client, wrap_reasoning_style),
    Stage(is_responses_client, wrap_history),
    Stage(is_any, wrap_client_defaults),
    Stage(is_any, wrap_metering),
    Stage(is_responses_client, wrap_extra_tools),
    Stage(is_responses_client, wrap_compaction),
    Stage(is_responses_client, wrap_hosted_tools),
    Stage(is_responses_passthrough, wrap_dropped_tools),
    Stage(is_chat_passthrough, wrap_choices_of_chat_tools),
    Stage(is_chat_passthrough, wrap_chat_tools),
    Stage(is_any, wrap_media),
    Stage(is_chat_over_responses, wrap_multiple_choices),  # each choice has its own stop
    Stage(is_chat_over_responses, wrap_cut_annotations),
    Stage(is_chat_over_responses, wrap_stop_sequences),
    Stage(is_chat_over_responses, wrap_token_limit),
    Stage(is_responses_passthrough, wrap_hidden_tools),
    Stage(is_translated, wrap_translation),
    Stage(uses_signature_cache, wrap_signature_cache),
    Stage(uses_reasoning_cache, wrap_reasoning_cache),
    Stage(is_chat_over_responses, wrap_translated_tools),
    Stage(is_chat_over_responses, wrap_dropped_tools),
    Stage(needs_single_responses_call, wrap_single_responses_call),
    Stage(is_chat_upstream, wrap_single_chat_call),
    Stage(is_chat_upstream, wrap_json_schema),
    Stage(is_chat_upstream, wrap_truncation),
    Stage(is_any, wrap_upstream_defaults),
)
"""The stages in order: the first is next to the client, the last next to the upstream."""


CARRIED_PIPELINE = (Stage(is_messages_over_responses, wrap_messages_limits),)
"""Stages for protocols that are translated to another client protocol and served by its pipeline.
These stages come before that translation."""


def build_handler(attempt: Attempt, terminal: Handler) -> Handler:
    """The handler that serves the attempt's request; ``terminal`` calls the upstream.

    Raises ForwarderError for a request that a stage refuses.
    """
    check_schema_sizes(attempt.request, attempt.services.settings.max_schema)
    carrier = CLIENT_PROTOCOLS[attempt.client].served_as.get(attempt.route.protocol)
    if carrier is not None:
        return build_carried_handler(attempt, carrier, terminal)
    return with_malformed_event_errors(
        wrap_stages(terminal, attempt, select_wraps(get_kind(attempt)))
    )


@lru_cache(maxsize=64)
def select_wraps(kind: AttemptKind) -> tuple[Wrap, ...]:
    """The wrappers of the stages that apply, in their order; there are few kinds of attempts."""
    return tuple(stage.wrap for stage in PIPELINE if stage.applies(kind))


@lru_cache(maxsize=64)
def select_carried_wraps(kind: AttemptKind) -> tuple[Wrap, ...]:
    """Like `select_wraps`, for the stages before the translation into the carrier."""
    return tuple(stage.wrap for stage in CARRIED_PIPELINE if stage.applies(kind))


def wrap_stages(handler: Handler, attempt: Attempt, wraps: Sequence[Wrap]) -> Handler:
    """The handler inside all of ``wraps``; the first one is the outermost."""
    for wrap in reversed(wraps):
        handler = wrap(handler, attempt)
    return handler


def build_carried_handler(attempt: Attempt, carrier: Carrier, terminal: Handler) -> Handler:
    """A translation over the whole pipeline of another client protocol.

    The stages of the carrier are chosen by its own request, as if a client had sent it.
    """

    def handle_request(request: Json) -> EventStream:
        inner = replace(
            attempt,
            client=carrier.protocol,
            carried_client=attempt.client,
            style=carrier.style,
            request=request,
        )
        return build_handler(inner, terminal)(request)

    context = replace(
        attempt.translation_context,
        extensions=attempt.extra_parameters,
        web_search=bool(attempt.request.get("tools")) and attempt.searches_web,
    )
    handler = translate_handler(handle_request, attempt.client, carrier.protocol, context)
    return with_malformed_event_errors(
        wrap_stages(handler, attempt, select_carried_wraps(get_kind(attempt)))
    )


def build_embeddings_handler(attempt: Attempt, terminal: Handler) -> Handler:
    """The handler of a request for embeddings."""
    metered, context = wrap_metering(terminal, attempt), attempt.translation_context
    handler = translate_handler(metered, attempt.client, EMBEDDINGS.name, context)
    return with_malformed_event_errors(handler)
