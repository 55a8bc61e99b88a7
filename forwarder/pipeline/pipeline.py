"""The order of the stages between a client and an upstream: the only place that knows it.

A stage wraps a handler.  The request passes the stages from the first to the last, and the stream
of the answer passes them back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from forwarder.core.client_headers import IDEMPOTENCY_KEY
from forwarder.core.schema_size import check_schema_sizes
from forwarder.core.types import Handler
from forwarder.core.validate import STR, check_enum, check_type
from forwarder.hosted_tools import with_hosted_tools
from forwarder.middleware.cut_annotations import with_cut_annotations
from forwarder.middleware.json_schema import with_json_schema
from forwarder.middleware.media import with_media
from forwarder.middleware.multiple_choices import with_multiple_choices
from forwarder.middleware.reasoning_style import with_reasoning_style
from forwarder.middleware.single_call_chat import with_single_chat_call
from forwarder.middleware.single_call_responses import with_single_responses_call
from forwarder.middleware.stop_sequences import with_stop_sequences
from forwarder.middleware.token_limit import with_token_limit
from forwarder.middleware.truncation import with_truncation
from forwarder.pipeline.attempt import Attempt
from forwarder.protocols.chat import CHAT
from forwarder.protocols.registry import CLIENT_PROTOCOLS, EMBEDDINGS
from forwarder.protocols.responses import RESPONSES
from forwarder.protocols.stream_end import blame_upstream_for_malformed_events
from forwarder.protocols.tool_secrets import with_hidden_tools
from forwarder.translation import translate_handler

# -- which attempts a stage applies to ---------------------------------------------------------


def is_any(attempt: Attempt) -> bool:
    return True


def is_chat_client(attempt: Attempt) -> bool:
    return attempt.client == CHAT.name


def is_responses_client(attempt: Attempt) -> bool:
    return attempt.client == RESPONSES.name


def is_chat_over_responses(attempt: Attempt) -> bool:
    return is_chat_client(attempt) and attempt.route.protocol == RESPONSES.name


def is_responses_over_chat(attempt: Attempt) -> bool:
    """A Responses upstream runs hosted tools itself."""
    return is_responses_client(attempt) and is_chat_upstream(attempt)


def is_responses_passthrough(attempt: Attempt) -> bool:
    return is_responses_client(attempt) and attempt.route.protocol == RESPONSES.name


def is_chat_upstream(attempt: Attempt) -> bool:
    return attempt.route.protocol == CHAT.name


def needs_single_responses_call(attempt: Attempt) -> bool:
    """An upstream that keeps its responses waits for the results of all calls in them."""
    over_responses = attempt.route.protocol == RESPONSES.name
    return over_responses and not (is_responses_client(attempt) and attempt.profile.keeps_responses)


def remembers_signatures(attempt: Attempt) -> bool:
    return attempt.services.settings.reasoning_ttl > 0 and is_chat_upstream(attempt)


def remembers_reasoning(attempt: Attempt) -> bool:
    return (
        attempt.services.settings.reasoning_ttl > 0
        and is_chat_over_responses(attempt)
        and attempt.profile.reasoning_items == "keep"
    )


# -- stages ------------------------------------------------------------------------------------


def wrap_reasoning_style(handler: Handler, attempt: Attempt) -> Handler:
    return with_reasoning_style(handler, attempt.chat_style)


def wrap_history(handler: Handler, attempt: Attempt) -> Handler:
    is_translated = attempt.client != attempt.route.protocol
    store = attempt.services.store
    return store.with_history(handler, attempt.context, attempt.upstream_memory, is_translated)


def wrap_client_defaults(handler: Handler, attempt: Attempt) -> Handler:
    defaults = attempt.route.defaults
    return defaults.with_client_defaults(handler, attempt.client, attempt.profile.drop)


def wrap_metering(handler: Handler, attempt: Attempt) -> Handler:
    return attempt.context.meter(handler)


def wrap_compaction(handler: Handler, attempt: Attempt) -> Handler:
    return attempt.compaction(handler, attempt.translation_context, attempt.compacts_natively)


def wrap_hosted_tools(handler: Handler, attempt: Attempt) -> Handler:
    context = attempt.services.hosted_tools.make_context(
        attempt.context,
        attempt.context.account_id or "",
        searches_itself=attempt.profile.web_search_options,
        keeps_encrypted_reasoning=attempt.translation_context.stores_encrypted_reasoning,
        prepare_file_search=attempt.file_search,
        is_preview=attempt.is_preview,
        approved_calls=attempt.context.approved_calls,
    )
    return with_hosted_tools(handler, context)


def wrap_media(handler: Handler, attempt: Attempt) -> Handler:
    over = attempt.route.protocol
    return with_media(handler, attempt.client, over, attempt.profile, attempt.media_io)


def wrap_multiple_choices(handler: Handler, attempt: Attempt) -> Handler:
    if attempt.request.get("n") not in (None, 1):  # several requests, which are no repetitions
        attempt.context.client_headers.pop(IDEMPOTENCY_KEY, None)
    return with_multiple_choices(handler, attempt.services.settings.max_choices)


def wrap_cut_annotations(handler: Handler, attempt: Attempt) -> Handler:
    return with_cut_annotations(handler)


def wrap_stop_sequences(handler: Handler, attempt: Attempt) -> Handler:
    return with_stop_sequences(handler, attempt.services.settings.stop_drain)


def wrap_token_limit(handler: Handler, attempt: Attempt) -> Handler:
    return with_token_limit(handler)


def wrap_hidden_tools(handler: Handler, attempt: Attempt) -> Handler:
    return with_hidden_tools(handler, attempt.request)


def wrap_translation(handler: Handler, attempt: Attempt) -> Handler:
    over = attempt.route.protocol
    if attempt.client == over:
        return handler
    return translate_handler(handler, attempt.client, over, attempt.translation_context)


def wrap_signature_cache(handler: Handler, attempt: Attempt) -> Handler:
    cache = attempt.services.signature_cache
    return cache.with_signature_cache(handler, attempt.cache_key, attempt.context.loss_report)


def wrap_reasoning_cache(handler: Handler, attempt: Attempt) -> Handler:
    cache, summarizes = attempt.services.reasoning_cache, attempt.translation_context.can_summarize
    return cache.with_reasoning_cache(handler, attempt.cache_key, summarizes)


def wrap_single_responses_call(handler: Handler, attempt: Attempt) -> Handler:
    return with_single_responses_call(handler)


def wrap_single_chat_call(handler: Handler, attempt: Attempt) -> Handler:
    return with_single_chat_call(handler)


def wrap_json_schema(handler: Handler, attempt: Attempt) -> Handler:
    max_nodes = attempt.services.settings.max_schema_nodes
    return with_json_schema(handler, attempt.profile.response_format, max_nodes)


def wrap_truncation(handler: Handler, attempt: Attempt) -> Handler:
    truncation = attempt.truncation if is_responses_client(attempt) else None
    if truncation is not None:
        check_enum(check_type(truncation, STR, "truncation"), ("auto", "disabled"), "truncation")
    return with_truncation(handler) if truncation == "auto" else handler


def wrap_upstream_defaults(handler: Handler, attempt: Attempt) -> Handler:
    return attempt.route.defaults.with_upstream_defaults(
        handler, attempt.route.protocol, attempt.extra_parameters, attempt.profile.drop
    )


class Stage(NamedTuple):
    """A wrapper around handlers, and the attempts that it applies to."""

    applies: Callable[[Attempt], bool]
    wrap: Callable[[Handler, Attempt], Handler]


PIPELINE = (
    Stage(is_chat_client, wrap_reasoning_style),
    Stage(is_responses_client, wrap_history),
    Stage(is_any, wrap_client_defaults),
    Stage(is_any, wrap_metering),
    Stage(is_responses_client, wrap_compaction),
    Stage(is_responses_over_chat, wrap_hosted_tools),
    Stage(is_any, wrap_media),
    Stage(is_chat_over_responses, wrap_multiple_choices),  # each choice is stopped on its own
    Stage(is_chat_over_responses, wrap_cut_annotations),
    Stage(is_chat_over_responses, wrap_stop_sequences),
    Stage(is_chat_over_responses, wrap_token_limit),
    Stage(is_responses_passthrough, wrap_hidden_tools),
    Stage(is_any, wrap_translation),
    Stage(remembers_signatures, wrap_signature_cache),
    Stage(remembers_reasoning, wrap_reasoning_cache),
    Stage(needs_single_responses_call, wrap_single_responses_call),
    Stage(is_chat_upstream, wrap_single_chat_call),
    Stage(is_chat_upstream, wrap_json_schema),
    Stage(is_chat_upstream, wrap_truncation),
    Stage(is_any, wrap_upstream_defaults),
)
"""The stages in order: the first is next to the client, the last next to the upstream."""


def build_handler(attempt: Attempt, terminal: Handler) -> Handler:
    """The handler that serves the attempt's request; ``terminal`` calls the upstream.

    Raises ForwarderError for a request that a stage refuses.
    """
    check_schema_sizes(attempt.request, attempt.services.settings.max_schema)
    served_as = CLIENT_PROTOCOLS[attempt.client].served_as
    if served_as is not None:
        return build_translated_handler(attempt, served_as, terminal)
    return blame_upstream_for_malformed_events(wrap_stages(terminal, attempt))


def wrap_stages(handler: Handler, attempt: Attempt, stages: Sequence[Stage] = PIPELINE) -> Handler:
    """The handler inside all stages that apply; the first stage is the outermost."""
    for stage in reversed(stages):
        if stage.applies(attempt):
            handler = stage.wrap(handler, attempt)
    return handler


def build_translated_handler(attempt: Attempt, served_as: str, terminal: Handler) -> Handler:
    """A translation over the whole pipeline of another client protocol, as for Ollama's API."""
    inner = replace(attempt, client=served_as, style="reasoning_content")
    context = replace(attempt.translation_context, extensions=attempt.extra_parameters)
    handler = translate_handler(build_handler(inner, terminal), attempt.client, served_as, context)
    return blame_upstream_for_malformed_events(handler)


def build_embeddings_handler(attempt: Attempt, terminal: Handler) -> Handler:
    """The handler of a request for embeddings."""
    metered, context = wrap_metering(terminal, attempt), attempt.translation_context
    handler = translate_handler(metered, attempt.client, EMBEDDINGS.name, context)
    return blame_upstream_for_malformed_events(handler)
