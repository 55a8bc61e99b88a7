"""Malformed requests are translated or refused; incomplete vendor streams are read or fail."""

from __future__ import annotations

from functools import partial
from typing import Any

from forwarder.core.errors import ForwarderError, UpstreamError
from forwarder.core.translation_context import LossReport
from forwarder.middleware.reasoning_style import with_reasoning_style
from forwarder.protocols.registry import CLIENT_PROTOCOLS, UPSTREAM_PROTOCOLS
from forwarder.providers import PROFILES, adapt_request
from tests.helpers.cases import Case, list_cases
from tests.helpers.check_cases import check_each
from tests.helpers.mutations import list_null_copies, list_wrong_copies
from tests.helpers.translating import (
    catch_error,
    collect_events,
    make_translator_context,
    translate,
    translate_case,
)

Json = dict[str, Any]

QUIRKY = ("openai", "deepseek", "gemini", "minimax", "mistral", "moonshot", "vllm")
"""Profiles that together use every quirk."""


def is_400_with_param(refusal: ForwarderError | None) -> bool:
    return refusal is None or (refusal.status == 400 and bool(refusal.param))


@check_each("case", list_cases())
def test_malformed_request_is_translated_or_refused_with_its_path(case: Case) -> None:
    context = case.read("terms.json", {})
    for request in list_wrong_copies(case.read("request.json")):
        refusal = catch_error(
            partial(translate, case.direction, request, make_translator_context(**context))
        )
        assert is_400_with_param(refusal)


@check_each("case", list_cases(), parts=2)
def test_malformed_passthrough_body_is_adapted_or_refused(case: Case) -> None:
    for body in list_wrong_copies(
        case.read("upstream.request.json"), (None, "wrong", [1], {"a": 1})
    ):
        for name in QUIRKY:
            refusal = catch_error(
                partial(adapt_request, body, case.upstream, PROFILES[name], LossReport())
            )
            assert is_400_with_param(refusal)


@check_each("case", list_cases("chat_over_responses"))
def test_reasoning_style_of_a_malformed_request_is_read_or_refused(case: Case) -> None:
    handler = with_reasoning_style(lambda body: iter([]), "thinking")
    for request in list_wrong_copies(case.read("request.json"), (None, "wrong", [1], {"a": 1})):
        assert is_400_with_param(catch_error(partial(handler, request)))


@check_each("case", list_cases(streams=True), parts=3)
def test_stream_with_a_missing_field_is_read_or_an_upstream_error(case: Case) -> None:
    events = case.read("upstream.jsonl")
    for i, event in enumerate(events):
        for changed_event in list_null_copies(event):
            stream = [
                [stream_event] for stream_event in (*events[:i], changed_event, *events[i + 1 :])
            ]
            for fold in (fold_translated, fold_passthrough):
                failure = catch_error(partial(fold, case, iter(stream)))
                assert failure is None or isinstance(failure, UpstreamError)


def fold_translated(case: Case, stream: Any) -> None:
    collect_events(
        translate_case(case).answer(
            UPSTREAM_PROTOCOLS[case.upstream].require_complete(stream, lambda: True)
        )
    )


def fold_passthrough(case: Case, stream: Any) -> None:
    complete = UPSTREAM_PROTOCOLS[case.upstream].require_complete(stream, lambda: True)
    if case.upstream == "chat":
        styled = with_reasoning_style(lambda request: complete, "thinking")({"stream": True})
        CLIENT_PROTOCOLS["chat"].fold(styled)
    else:
        CLIENT_PROTOCOLS["responses"].fold(complete)
