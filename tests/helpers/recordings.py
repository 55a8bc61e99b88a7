"""Recorded answers of real providers, and their content, read without the forwarder.

The recordings are not part of the project. The environment variable ``RECORDINGS`` names a folder
with the file ``streams.jsonl.gz``, which has one JSON object per line: ``id``, ``kind`` (the
provider's protocol, ``chat`` or ``responses``), ``provider``, ``request`` and ``sse``.

The results of a replay are compared with those of the readers here, so the readers share no code
with the translators.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

Json = dict[str, Any]

TERMINALS = ("response.completed", "response.incomplete", "response.failed")


class Call(NamedTuple):
    """A call of a tool as the model wrote it."""

    name: str
    arguments: str
    id: str


class Usage(NamedTuple):
    """The token counts that both protocols have."""

    input: int
    output: int
    total: int
    cached: int
    reasoning: int


@dataclass(frozen=True)
class Outcome:
    """The content of one answer; ``finish`` is the finish reason or status of its protocol."""

    text: str = ""
    refusal: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    finish: str | None = None
    usage: Usage | None = None
    error: bool = False


@dataclass(frozen=True)
class Recording:
    """One recorded stream."""

    id: str
    kind: str
    provider: str
    request: Json
    sse: str

    @cached_property
    def events(self) -> list[Json]:
        """The events up to the end of the first answer: some fixtures hold several turns."""
        return list(_first_answer(self.sse))

    @cached_property
    def outcome(self) -> Outcome:
        """The provider's answer."""
        return (outcome_of_chunks if self.kind == "chat" else outcome_of_events)(self.events)


def load_recordings(folder: Path) -> list[Recording]:
    """Return all recordings of a folder."""
    with gzip.open(folder / "streams.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [_parse_recording(json.loads(line)) for line in lines]


def _parse_recording(line: Json) -> Recording:
    sse = _FRONT_MATTER.sub("", line["sse"])
    return Recording(line["id"], line["kind"], line["provider"], line["request"] or {}, sse)


_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
"""A header that snapshot tools write before the body."""


def read_sse(text: str) -> Iterator[str]:
    """Yield the data of each event of a body."""
    for frame in re.split(r"\r?\n\r?\n", text):
        lines = [line.rstrip("\r") for line in frame.split("\n")]
        data = [line[5:].removeprefix(" ") for line in lines if line.startswith("data:")]
        if data:
            yield "\n".join(data)


def _first_answer(sse: str) -> Iterator[Json]:
    for data in read_sse(sse):
        if data.startswith("[DONE]"):
            return
        event = json.loads(data)
        if isinstance(event, dict):  # LiteLLM sends a null
            yield event
            if event.get("type") in TERMINALS:
                return


# -- Chat ---------------------------------------------------------------------------------------


def outcome_of_chunks(chunks: list[Json], choice: int = 0) -> Outcome:
    """Return the content of one choice of a chat stream."""
    message: Json = {"content": [], "calls": []}
    finish: str | None = None
    usage: Any = None
    failed = False
    for chunk in chunks:
        usage = chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage") or usage
        failed = failed or bool(chunk.get("error"))
        for entry in chunk.get("choices") or ():
            usage = entry.get("usage") or usage
            if (entry.get("index") or 0) == choice:
                finish = entry.get("finish_reason") or finish
                failed = failed or bool(entry.get("error"))
                _add_delta(message, entry.get("delta") or {})
    return _chat_outcome(message, finish, usage, failed)


def outcome_of_completion(completion: Json, choice: int = 0) -> Outcome:
    """Return the content of one choice of a whole chat completion."""
    if completion.get("error"):
        return Outcome(error=True)
    [entry] = [c for c in completion["choices"] if c["index"] == choice]
    message: Json = {"content": [], "calls": []}
    calls = [{"index": i, **c} for i, c in enumerate(entry["message"].get("tool_calls") or ())]
    _add_delta(message, {**entry["message"], "tool_calls": calls})
    return _chat_outcome(message, entry["finish_reason"], completion.get("usage"), False)


def _chat_outcome(message: Json, finish: str | None, usage: Any, failed: bool) -> Outcome:
    return Outcome(
        text="".join(message["content"]),
        refusal=message.get("refusal", ""),
        reasoning=message.get("reasoning", ""),
        calls=[Call(c["name"], c["arguments"], c["id"]) for c in message["calls"]],
        finish=finish,
        usage=_chat_usage(usage),
        error=failed,
    )


def _add_delta(message: Json, delta: Json) -> None:
    content = delta.get("content")
    for part in content if isinstance(content, list) else [content or ""]:
        if isinstance(part, str):
            message["content"].append(part)
        elif part.get("type") in ("thinking", "reasoning"):
            _append(message, "reasoning", _text_of(part))
        else:
            message["content"].append(_text_of(part))
    _append(message, "refusal", delta.get("refusal") or "")
    details = "".join(map(_text_of, delta.get("reasoning_details") or ()))
    _append(
        message, "reasoning", delta.get("reasoning_content") or delta.get("reasoning") or details
    )
    for call in delta.get("tool_calls") or ():
        _add_call(message["calls"], call)


def _append(message: Json, key: str, text: str) -> None:
    message[key] = message.get(key, "") + text


def _text_of(part: Any) -> str:
    text = part if isinstance(part, str) else next(
        (part[k] for k in ("text", "thinking", "summary") if part.get(k)), ""
    )  # fmt: skip
    return text if isinstance(text, str) else "".join(map(_text_of, text))


def _add_call(calls: list[Json], delta: Json) -> None:
    index, call_id = delta.get("index"), delta.get("id") or ""
    matching_calls = calls[-1:] if index is None else [c for c in calls if c["index"] == index][-1:]
    if not matching_calls or (call_id and matching_calls[0]["id"] not in ("", call_id)):
        calls.append({"index": index, "id": "", "name": "", "arguments": ""})
        matching_calls = calls[-1:]
    [call] = matching_calls
    body = delta.get("function") or delta.get("custom") or {}
    call["id"] = call["id"] or call_id
    call["name"] = call["name"] or body.get("name") or ""
    arguments = body.get("arguments") or body.get("input") or ""
    call["arguments"] += arguments if isinstance(arguments, str) else json.dumps(arguments)


def _chat_usage(usage: Any) -> Usage | None:
    if not usage:
        return None
    input_tokens, output_tokens = (
        usage.get("prompt_tokens") or 0,
        usage.get("completion_tokens") or 0,
    )
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    return Usage(
        input_tokens,
        output_tokens,
        usage.get("total_tokens") or input_tokens + output_tokens,
        prompt.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0,
        completion.get("reasoning_tokens") or 0,
    )


# -- Responses ----------------------------------------------------------------------------------


def outcome_of_events(events: list[Json]) -> Outcome:
    """Return the content of a Responses stream, by its finished items or its last event."""
    last_event = events[-1]
    if last_event["type"] not in ("response.completed", "response.incomplete"):
        return Outcome(error=True)
    items = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    response = last_event["response"]
    outcome = outcome_of_response({**response, "output": items or response.get("output") or []})
    text = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    thoughts = ("response.reasoning_text.delta", "response.reasoning_summary_text.delta")
    reasoning = "".join(e["delta"] for e in events if e["type"] in thoughts)
    return replace(outcome, text=outcome.text or text, reasoning=outcome.reasoning or reasoning)


def outcome_of_response(response: Json) -> Outcome:
    """Return the content of a whole response."""
    if response.get("error"):
        return Outcome(error=True)
    items: list[Json] = response["output"]
    parts = [p for item in items if item["type"] == "message" for p in item["content"]]
    thoughts = [item for item in items if item["type"] == "reasoning"]
    return Outcome(
        text="".join(p.get("text") or "" for p in parts),
        refusal="".join(p.get("refusal") or "" for p in parts),
        reasoning="\n\n".join(
            part["text"] for i in thoughts for part in i.get("content") or i.get("summary") or ()
        ),
        calls=[_item_call(item) for item in items if item["type"] in _INPUTS],
        finish=(response.get("incomplete_details") or {}).get("reason") or response.get("status"),
        usage=_responses_usage(response.get("usage")),
    )


_INPUTS = {"function_call": "arguments", "custom_tool_call": "input"}


def _item_call(item: Json) -> Call:
    name = f"{item['namespace']}__{item['name']}" if item.get("namespace") else item["name"]
    return Call(name, item[_INPUTS[item["type"]]], item["call_id"])


def _responses_usage(usage: Any) -> Usage | None:
    if not usage:
        return None
    input_tokens, output_tokens = usage.get("input_tokens") or 0, usage.get("output_tokens") or 0
    return Usage(
        input_tokens,
        output_tokens,
        usage.get("total_tokens") or input_tokens + output_tokens,
        (usage.get("input_tokens_details") or {}).get("cached_tokens") or 0,
        (usage.get("output_tokens_details") or {}).get("reasoning_tokens") or 0,
    )


# -- from one protocol to the other -------------------------------------------------------------


def convert_to_response(outcome: Outcome) -> Outcome:
    """Return a chat outcome as a Responses client must get it."""
    reasoning, text = outcome.reasoning, outcome.text
    if block := _THINK.match(text):
        reasoning, text = reasoning + block[1], text[block.end() :]
    finish = {"length": "max_output_tokens", "content_filter": "content_filter"}
    calls = [call._replace(arguments=call.arguments or "{}") for call in outcome.calls]
    if calls and outcome.finish in finish:  # the last was cut off
        calls[-1] = outcome.calls[-1]
    return replace(
        outcome,
        text=text,
        reasoning=reasoning if reasoning.strip() else "",
        calls=calls,
        finish=finish.get(outcome.finish or "", "completed"),
    )


_THINK = re.compile(r"\s*<think>(.*?)(?:</think>\n*|\Z)", re.DOTALL)


def convert_to_completion(outcome: Outcome) -> Outcome:
    """Return a Responses outcome as a chat client must get it."""
    finish = {"max_output_tokens": "length", "content_filter": "content_filter"}
    finish_reason = finish.get(outcome.finish or "", "tool_calls" if outcome.calls else "stop")
    return replace(outcome, finish=finish_reason)


def compare_outcomes(expected: Outcome, actual: Outcome) -> list[str]:
    """Return the fields that differ, ignoring blank lines in the reasoning."""
    if expected.error or actual.error:
        return [] if expected.error == actual.error else [f"error: {actual.error}"]
    pairs = {name: (getattr(expected, name), getattr(actual, name)) for name in
             ("text", "refusal", "finish", "usage")}  # fmt: skip
    pairs["reasoning"] = (_join_paragraphs(expected.reasoning), _join_paragraphs(actual.reasoning))
    pairs["calls"] = (_with_known_ids(expected.calls, expected.calls),
                      _with_known_ids(actual.calls, expected.calls))  # fmt: skip
    return [f"{name}: {expected_value!r} became {actual_value!r}" for name, (expected_value, actual_value) in pairs.items()
            if expected_value != actual_value]  # fmt: skip


def _join_paragraphs(paragraphs: str) -> str:
    return re.sub(r"\n\n+", "", paragraphs)


def _with_known_ids(calls: Iterable[Call], source: list[Call]) -> list[Call]:
    """Return the calls, without ids if the source has no unique ids."""
    ids = [call.id for call in source]
    unique = all(ids) and len(set(ids)) == len(ids)
    return [call if unique else call._replace(id="") for call in calls]
