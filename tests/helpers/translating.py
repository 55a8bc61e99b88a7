"""Runs translations in tests, with predictable ids and streams in several chunkings."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from forwarder.core.errors import ForwarderError
from forwarder.core.ids import IdSource
from forwarder.core.translation_context import LossReport, TranslationContext
from forwarder.core.types import Batch, Event, EventStream
from forwarder.translation import (
    chat_over_responses,
    messages_over_chat,
    messages_over_responses,
    responses_over_chat,
)
from tests.helpers.cases import Case

Json = dict[str, Any]

SEAL = "fwd1.test:"
NOW = 1_700_000_000
STAMP = "2023-11-14T22:13:20.000000Z"


def make_counting_id_source() -> IdSource:
    """Return a source of numbered ids and of a constant time.

    The monotonic clock advances by a millisecond with each reading.
    """
    numbers, ticks = itertools.count(1), itertools.count(0, 10**6)
    return IdSource(
        new_id=lambda prefix: f"{prefix}_{next(numbers)}",
        now=lambda: NOW,
        timestamp=lambda: STAMP,
        monotonic_ns=lambda: next(ticks),
    )


def make_translator_context(strict: bool = False, **changes: Any) -> TranslationContext:
    """Return a context for a test, whose encryption is readable and reversible."""
    return TranslationContext(
        id_source=make_counting_id_source(),
        loss_report=LossReport(strict=strict),
        encrypt=_seal,
        decrypt=_unseal,
        **changes,
    )


def _seal(value: Any) -> str:
    return SEAL + json.dumps(value, sort_keys=True)


def _unseal(encrypted_content: str) -> Any:
    return (
        json.loads(encrypted_content.removeprefix(SEAL))
        if encrypted_content.startswith(SEAL)
        else None
    )


TRANSLATIONS: dict[str, Any] = {
    "responses_over_chat": responses_over_chat,
    "chat_over_responses": chat_over_responses,
    "messages_over_chat": messages_over_chat,
    "messages_over_responses": messages_over_responses,
}
"""Direction -> the package that translates."""


class TranslatedRequest(NamedTuple):
    """A translated request, the dropped parameters, and the translation of the answer's stream."""

    request: Json
    dropped: dict[str, str]
    answer: Callable[[EventStream], EventStream]


def translate(direction: str, request: Json, context: TranslationContext) -> TranslatedRequest:
    """Translate a request. The result's ``answer`` translates the upstream's stream."""
    translation = TRANSLATIONS[direction]
    prepared = translation.translate_request(request, context)
    return TranslatedRequest(
        prepared[0],
        context.loss_report.losses,
        lambda stream: translation.translate_stream(stream, prepared, context),
    )


def translate_case(case: Case) -> TranslatedRequest:
    """Translate the request of a case with the options of its ``terms.json``."""
    return translate(
        case.direction,
        case.read("request.json"),
        make_translator_context(**case.read("terms.json", {})),
    )


def translate_answer(case: Case, batches: list[Batch]) -> list[Event]:
    """Return the client's events if the upstream of a case answers with ``batches``."""
    return collect_events(translate_case(case).answer(iter(batches)))


def catch_error(action: Callable[[], object]) -> ForwarderError | None:
    """Return the ForwarderError that ``action`` raises, or None. Other errors fail the test."""
    try:
        action()
    except ForwarderError as error:
        return error
    return None


def collect_events(stream: EventStream) -> list[Event]:
    """Return all events of a stream, in order."""
    return list(itertools.chain.from_iterable(stream))


# -- chunkings ----------------------------------------------------------------------------------


def batch_each_event(events: list[Event]) -> list[Batch]:
    """Return one batch per event, with some empty batches as heartbeats."""
    batches: list[Batch] = []
    for i, event in enumerate(copy.deepcopy(events)):
        batches += [[event], []] if i % 3 == 2 else [[event]]
    return batches


def batch_all_events(events: list[Event]) -> list[Batch]:
    """Return all events in one batch."""
    return [copy.deepcopy(events)]


def batch_each_letter(events: list[Event]) -> list[Batch]:
    """Return the events with every delta split into single characters."""
    split = _split_delta if events[0].get("type") else _split_chunk
    letters = [piece for event in copy.deepcopy(events) for piece in split(event)]
    return [[event] for event in _renumber_events(letters)]


CHUNKINGS: dict[str, Callable[[list[Event]], list[Batch]]] = {
    "as sent": batch_each_event,
    "at once": batch_all_events,
    "letter by letter": batch_each_letter,
}


def _split_delta(event: Event) -> Iterator[Event]:
    delta = event.get("delta")
    if not isinstance(delta, str) or not delta:
        yield event
        return
    later_fields = {"logprobs": []} if event.get("logprobs") else {}
    for i, letter in enumerate(delta):
        yield {**event, "delta": letter, **(later_fields if i else {})}


def _renumber_events(events: list[Event]) -> Iterator[Event]:
    for i, event in enumerate(events):
        yield {**event, "sequence_number": i} if "sequence_number" in event else event


_TEXTS = ("content", "refusal", "reasoning_content", "reasoning")


def _split_chunk(chunk: Event) -> Iterator[Event]:
    """Split a chat chunk into letters. Other fields stay in the first piece."""
    choices = chunk.get("choices") or []
    choice = choices[0] if choices else {}
    while choice.get("delta"):
        first, rest = _split_texts(choice["delta"])
        if not rest:
            break
        piece = {**choice, "delta": first, "finish_reason": None}
        yield {**chunk, "choices": [piece], "usage": None}
        choice = {k: v for k, v in choice.items() if k != "logprobs"} | {"delta": rest}
    yield {**chunk, "choices": [choice]} if choice else chunk


def _split_texts(delta: Json) -> tuple[Json, Json]:
    """Return the first letter of every text with all other fields, and the rest of the texts."""
    first, rest = dict(delta), {}
    for name in _TEXTS:
        text = delta.get(name)
        if isinstance(text, str) and len(text) > 1:
            first[name], rest[name] = text[0], text[1:]
    calls = delta.get("tool_calls") or []
    if len(calls) == 1:
        first_call, rest_call = _cut_call(calls[0])
        first["tool_calls"] = [first_call]
        if rest_call:
            rest["tool_calls"] = [rest_call]
    if delta.get("function_call"):
        first_call, rest_call = _cut_call({"function": delta["function_call"]})
        first["function_call"] = first_call["function"]
        if rest_call:
            rest["function_call"] = rest_call["function"]
    return first, rest


def _cut_call(call: Json) -> tuple[Json, Json]:
    for shape, key in (("function", "arguments"), ("custom", "input")):
        text = (call.get(shape) or {}).get(key)
        if isinstance(text, str) and len(text) > 1:
            index_field = {"index": call["index"]} if "index" in call else {}
            head = {**call, shape: {**call[shape], key: text[0]}}
            return head, {**index_field, shape: {key: text[1:]}}
    return call, {}


# -- content of answers -------------------------------------------------------------------------


class AnswerContent(NamedTuple):
    """The content of an answer in any protocol, for comparisons."""

    text: str
    refusal: str
    reasoning: str
    calls: list[tuple[str, str]]
    ending: str


def read_response_content(response: Json) -> AnswerContent:
    """Return the content of a Responses answer; calls have the names that chat clients see."""
    parts = [
        part for item in response["output"] if item["type"] == "message" for part in item["content"]
    ]
    calls = [_read_call(item) for item in response["output"] if item["type"] in _CALLS]
    return AnswerContent(
        text="".join(part["text"] for part in parts if part["type"] == "output_text"),
        refusal="".join(part["refusal"] for part in parts if part["type"] == "refusal"),
        reasoning=join_paragraphs(
            *(t for i in response["output"] if i["type"] == "reasoning" for t in _read_reasoning(i))
        ),
        calls=calls,
        ending=(response.get("incomplete_details") or {}).get("reason") or "completed",
    )


def join_paragraphs(*texts: str) -> str:
    """Join texts as paragraphs, ignoring empty ones."""
    return "\n\n".join(p for text in texts for p in text.split("\n\n") if p)


_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}


def _read_call(item: Json) -> tuple[str, str]:
    name = f"{item['namespace']}__{item['name']}" if item.get("namespace") else item["name"]
    return name, item[_CALLS[item["type"]]]


def _read_reasoning(item: Json) -> list[str]:
    return [part["text"] for part in item.get("content") or item["summary"]]


def read_completion_content(completion: Json) -> AnswerContent:
    """Return the content of a chat completion."""
    choice = completion["choices"][0]
    message = choice["message"]
    calls = list(message.get("tool_calls") or ())
    if message.get("function_call"):
        calls.append({"type": "function", "function": message["function_call"]})
    return AnswerContent(
        text=message["content"] or "",
        refusal=message.get("refusal") or "",
        reasoning=join_paragraphs(message.get("reasoning_content") or ""),
        calls=[_read_chat_call(call) for call in calls],
        ending={"length": "max_output_tokens", "content_filter": "content_filter"}.get(
            choice["finish_reason"], "completed"
        ),
    )


def _read_chat_call(call: Json) -> tuple[str, str]:
    body = call[call["type"]]
    return body["name"], body["input" if call["type"] == "custom" else "arguments"]
