"""Chat chunks as Ollama lines; test_ollama_laws.py has the properties of all streams."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import UpstreamError, UpstreamProtocolError, UpstreamRefused
from forwarder.protocols.ollama import fold_ollama
from forwarder.translation import ollama_over_chat
from forwarder.translation.ollama_over_chat.endpoints import GENERATE_ENDPOINT
from tests.helpers.check_cases import check_each
from tests.helpers.ollama import (
    list_mistakes,
    make_chunk,
    translate_lines,
    translate_ollama_request,
)
from tests.helpers.translating import STAMP, make_translator_context

Json = dict[str, Any]

USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}}
END = make_chunk("stop")


def read_values(ollama_lines: list[Json], name: str = "content") -> list[str]:
    return [line["message"][name] for line in ollama_lines if line["message"].get(name)]


def test_text_streams_and_the_last_line_is_done() -> None:
    ollama_lines = translate_lines(
        [
            [make_chunk(role="assistant")],
            [make_chunk(content="Hel")],
            [make_chunk(content="lo"), END],
        ]
    )
    head = {"model": "m", "created_at": STAMP}
    message = {"role": "assistant", "content": "Hel"}
    assert ollama_lines[0] == {**head, "message": message, "done": False}
    assert read_values(ollama_lines) == ["Hel", "lo"]
    assert [line["done"] for line in ollama_lines] == [False, False, True]
    assert ollama_lines[-1]["message"] == {"role": "assistant", "content": ""}
    assert [list_mistakes(line) for line in ollama_lines] == [[], [], []]


def test_durations_add_up_and_tokens_are_the_upstreams() -> None:
    final_line = translate_lines(
        [[make_chunk(role="assistant")], [make_chunk(content="x")], [END, USAGE]]
    )[-1]
    assert final_line["done_reason"] == "stop"
    assert (final_line["prompt_eval_count"], final_line["eval_count"]) == (5, 3)
    assert final_line["load_duration"] == 0
    # The test clock advances by one millisecond per reading.
    assert final_line["prompt_eval_duration"] == final_line["eval_duration"] == 10**6
    assert final_line["total_duration"] == 2 * 10**6


def test_missing_token_counts_are_omitted() -> None:
    final_line = translate_lines([[make_chunk(content="x"), END]])[-1]
    assert not {"prompt_eval_count", "eval_count"} & final_line.keys()
    assert final_line["total_duration"] > 0


@check_each("usage", [{"x_groq": {"usage": USAGE["usage"]}}, {"usage": USAGE["usage"]}])
def test_usage_on_the_finish_chunk_is_read(usage: Json) -> None:
    assert translate_lines([[{**make_chunk("stop", content="x"), **usage}]])[-1]["eval_count"] == 3


@check_each(
    ("finish", "reason"),
    [("stop", "stop"), ("tool_calls", "stop"), ("length", "length"), ("max_tokens", "length"),
     ("content_filter", "content_filter"), ("eos", "stop")],
)  # fmt: skip
def test_finish_reason_is_mapped(finish: str, reason: str) -> None:
    assert translate_lines([[make_chunk(finish, content="x")]])[-1]["done_reason"] == reason


@check_each(
    "deltas",
    [
        [{"reasoning_content": "Hm."}, {"content": "Hi"}],
        [{"reasoning": "Hm."}, {"content": "Hi"}],
        [{"reasoning_content": "Hm.", "content": "Hi"}],
        [{"content": "<think>Hm.</think>\n\nHi"}],
        [{"content": "<th"}, {"content": "ink>Hm.</thi"}, {"content": "nk>\n"}, {"content": "Hi"}],
        [{"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Hi"}]}],
    ],
)
def test_reasoning_becomes_thinking_in_all_formats(deltas: list[Json]) -> None:
    batches = [[make_chunk(**delta)] for delta in deltas]
    ollama_lines = translate_lines([*batches, [END]])
    assert ("".join(read_values(ollama_lines, "thinking")), "".join(read_values(ollama_lines))) == (
        "Hm.",
        "Hi",
    )
    without_thinking = translate_lines([*batches, [END]], think=False)
    assert (read_values(without_thinking, "thinking"), "".join(read_values(without_thinking))) == (
        [],
        "Hi",
    )


def test_incomplete_think_tag_is_text() -> None:
    assert read_values(translate_lines([[make_chunk(content="<thi")], [END]])) == ["<thi"]


def test_refusal_becomes_text() -> None:
    assert read_values(translate_lines([[make_chunk(refusal="I can't.")], [END]])) == ["I can't."]


def test_legacy_function_call_is_a_call() -> None:
    pieces: list[Json] = [
        {"name": "f", "arguments": ""},
        {"arguments": '{"a"'},
        {"arguments": ":1}"},
    ]
    chunks = [make_chunk(function_call=piece) for piece in pieces]

    lines = translate_lines([[chunk] for chunk in [*chunks, make_chunk("function_call")]])

    call = {"function": {"index": 0, "name": "f", "arguments": {"a": 1}}}
    assert [line["message"].get("tool_calls") for line in lines] == [[call], None]


def test_calls_follow_the_text_whole() -> None:
    def make_call_chunk(text: str, **more: Any) -> Json:
        return make_chunk(tool_calls=[{"index": 0, "function": {"arguments": text, **more}}])

    ollama_lines = translate_lines([[make_chunk(content="Let me.")], [make_call_chunk('{"ci', name="f")], [make_call_chunk('ty":1}')],
                  [make_chunk("tool_calls")]])  # fmt: skip
    assert [line["message"].get("tool_calls") for line in ollama_lines] == [
        None, [{"function": {"index": 0, "name": "f", "arguments": {"city": 1}}}], None
    ]  # fmt: skip
    assert read_values(ollama_lines) == ["Let me."]
    assert ollama_lines[-1]["done_reason"] == "stop"
    assert [list_mistakes(line) for line in ollama_lines] == [[], [], []]


def test_logprobs_are_on_their_line() -> None:
    entry = {"token": "x", "logprob": -0.5, "bytes": [120],
             "top_logprobs": [{"token": "y", "logprob": -1.0, "bytes": None}]}  # fmt: skip
    measured = make_chunk(content="x")
    measured["choices"][0]["logprobs"] = {"content": [entry], "refusal": None}
    silent = make_chunk()
    silent["choices"][0]["logprobs"] = {"content": [entry]}
    ollama_lines = translate_lines([[measured], [silent], [END]], logprobs=True)
    assert [line.get("logprobs") for line in ollama_lines] == [[entry], [entry], None]
    assert read_values(ollama_lines) == ["x"]
    assert not any("logprobs" in line for line in translate_lines([[measured], [END]]))
    assert [list_mistakes(line) for line in ollama_lines] == [[], [], []]


def test_last_version_of_an_image_becomes_markdown() -> None:
    def make_image_chunk(url: str, **more: Any) -> Json:
        return make_chunk(images=[{"type": "image_url", "image_url": {"url": url}, **more}])

    ollama_lines = translate_lines(
        [
            [
                make_image_chunk("u:1", index=0),
                make_image_chunk("u:2", index=0),
                make_image_chunk("u:3"),
                END,
            ]
        ]
    )
    assert read_values(ollama_lines) == ["\n\n![image](u:2)", "\n\n![image](u:3)"]


def test_whole_answer_is_translated() -> None:
    message = {"role": "assistant", "content": "Hi", "reasoning_content": "Hm.",
               "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}  # fmt: skip
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    ollama_lines = translate_lines(
        [[], [{"choices": [choice], "usage": USAGE["usage"]}]], stream=False
    )
    assert (read_values(ollama_lines, "thinking"), read_values(ollama_lines)) == (["Hm."], ["Hi"])
    assert ollama_lines[-2]["message"]["tool_calls"][0]["id"] == "c"
    # A whole answer has no time of the first token.
    assert ollama_lines[-1]["prompt_eval_duration"] == 0
    assert ollama_lines[-1]["eval_duration"] == ollama_lines[-1]["total_duration"] > 0


def test_generate_answer_has_a_response() -> None:
    ollama_lines = translate_lines(
        [[make_chunk(reasoning_content="Hm.")], [make_chunk(content="Hi"), END]], GENERATE_ENDPOINT
    )
    assert [(line["response"], line.get("thinking")) for line in ollama_lines] == [
        ("", "Hm."), ("Hi", None), ("", None)
    ]  # fmt: skip
    assert [list_mistakes(line) for line in ollama_lines] == [[], [], []]


def test_load_request_gets_one_line() -> None:
    [line] = translate_lines([], messages=[])
    assert (line["done"], line["done_reason"], line["message"]["content"]) == (True, "load", "")
    [line] = translate_lines([], GENERATE_ENDPOINT, prompt="", keep_alive=0)
    assert (line["done"], line["done_reason"], line["response"]) == (True, "unload", "")
    assert list_mistakes(line) == []


def test_heartbeat_is_forwarded() -> None:
    context = make_translator_context()
    stream = ollama_over_chat.translate_stream(
        iter([[], [END]]), translate_ollama_request(context), context
    )
    assert next(stream) == []


# -- faults -------------------------------------------------------------------------------------


@check_each(
    ("batches", "error_type"),
    [
        ([[make_chunk(content="x")]], UpstreamProtocolError),
        ([], UpstreamProtocolError),
        ([[make_chunk(content="x"), {"error": {"message": "Boom."}}]], UpstreamError),
        ([[make_chunk(content="x"), make_chunk("error")]], UpstreamError),
        ([[make_chunk(content=[7])]], UpstreamProtocolError),
        (
            [[make_chunk(tool_calls=[{"function": {"name": "f", "arguments": "{"}}])], [END]],
            UpstreamProtocolError,
        ),
    ],
)
def test_broken_answer_is_never_done(batches: list[Any], error_type: type[UpstreamError]) -> None:
    context = make_translator_context()
    ollama_lines: list[Json] = []
    stream = ollama_over_chat.translate_stream(
        iter(batches), translate_ollama_request(context), context
    )
    with pytest.raises(error_type):
        ollama_lines.extend(line for batch in stream for line in batch)
    assert not any(line["done"] for line in ollama_lines)
    assert read_values(ollama_lines) == (
        ["x"] if batches and batches[0][0] == make_chunk(content="x") else []
    )


def test_stream_error_keeps_its_status() -> None:
    error = {"message": "Slow down.", "code": "rate_limit_exceeded"}
    with pytest.raises(UpstreamRefused) as caught:
        translate_lines([[{"error": error}]])
    assert (caught.value.status, caught.value.message) == (429, "Slow down.")


# -- whole answers ------------------------------------------------------------------------------

FOLDED_CALL = {"index": 0, "function": {"name": "f", "arguments": "{}"}}


def make_chunk_with_logprobs(text: str) -> Json:
    line = make_chunk(content=text)
    line["choices"][0]["logprobs"] = {"content": [{"token": text, "logprob": -1.0}]}
    return line


FOLDED_STREAM = [
    [make_chunk(reasoning_content="H")], [], [make_chunk(reasoning_content="m.")], [make_chunk_with_logprobs("Hel")],
    [make_chunk_with_logprobs("lo")], [make_chunk(tool_calls=[FOLDED_CALL])], [make_chunk("stop")],
]  # fmt: skip


def test_fold_joins_chat_lines_into_one_message() -> None:
    ollama_lines = translate_lines(FOLDED_STREAM, logprobs=True)
    answer = fold_ollama(iter([ollama_lines[:2], [], ollama_lines[2:]]))
    function = {"index": 0, "name": "f", "arguments": {}}
    message = {"role": "assistant", "content": "Hello", "thinking": "Hm.",
               "tool_calls": [{"function": function}]}  # fmt: skip
    assert answer["message"] == message
    assert [entry["token"] for entry in answer["logprobs"]] == ["Hel", "lo"]
    assert {k: v for k, v in answer.items() if k not in ("message", "logprobs")} == {
        k: v for k, v in ollama_lines[-1].items() if k != "message"
    }
    assert list_mistakes(answer) == []


def test_fold_joins_generate_lines_into_one_response() -> None:
    answer = fold_ollama(
        iter(
            [
                translate_lines(
                    FOLDED_STREAM[:5] + FOLDED_STREAM[6:], GENERATE_ENDPOINT, logprobs=True
                )
            ]
        )
    )
    assert (answer["response"], answer["thinking"], answer["done"]) == ("Hello", "Hm.", True)
    assert len(answer["logprobs"]) == 2
    assert "message" not in answer
    assert list_mistakes(answer) == []


def test_fold_fails_without_a_final_line() -> None:
    ollama_lines = translate_lines([[make_chunk(content="x"), make_chunk("stop")]])
    for batches in ([], [ollama_lines[:-1]]):
        with pytest.raises(UpstreamProtocolError):
            fold_ollama(iter(batches))
