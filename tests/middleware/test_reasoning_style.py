from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwarder.core.errors import InvalidRequest
from forwarder.core.types import EventStream, Handler
from forwarder.middleware import reasoning_style
from forwarder.middleware.reasoning_style import with_reasoning_style
from forwarder.protocols.chat import CHAT_REASONING_STYLES
from forwarder.protocols.chat_reasoning import REASONING_FIELDS, find_reasoning_field
from forwarder.protocols.fold import fold_chat
from tests.helpers import sdk
from tests.helpers.cases import Case, list_cases
from tests.helpers.check_cases import check_each
from tests.helpers.translating import batch_each_event, collect_events, translate_case

Json = dict[str, Any]

CALL = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
WHOLE_CALL = {key: value for key, value in CALL.items() if key != "index"}


def make_chunk(delta: Json, finish: str | None = None) -> Json:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }


def make_handler(*deltas: Json, finish: str = "stop") -> Handler:
    chunks = [*(make_chunk(delta) for delta in deltas), make_chunk({}, finish)]
    return lambda request: iter([[chunk] for chunk in chunks])


def apply_style(style: str | None, *deltas: Json, **request: Any) -> list[Json]:
    return collect_events(
        with_reasoning_style(make_handler(*deltas), style)({"stream": True, **request})
    )


def read_message(style: str | None, *deltas: Json, **request: Any) -> Json:
    folded: Json = fold_chat(iter([apply_style(style, *deltas, **request)]))["choices"][0][
        "message"
    ]
    return folded


ROLE = {"role": "assistant", "content": ""}
THOUGHT = [
    ROLE,
    {"reasoning_content": "Let me "},
    {"reasoning_content": "see."},
    {"content": "Ye"},
    {"content": "s."},
]

EXPECTED_MESSAGES: dict[str, Json] = {
    "thinking": {"content": "[thinking]Let me see.[/thinking]\n\nYes."},
    "think": {"content": "<think>Let me see.</think>\n\nYes."},
    "reasoning_content": {"content": "Yes.", "reasoning_content": "Let me see."},
    "reasoning": {"content": "Yes.", "reasoning": "Let me see."},
    "parts": {"content": [{"type": "thinking", "thinking": "Let me see."}, {"type": "text", "text": "Yes."}]},
    "none": {"content": "Yes."},
}  # fmt: skip


@check_each("name", REASONING_FIELDS)
def test_every_reasoning_field_is_a_style(name: str) -> None:
    style = find_reasoning_field([{"role": "assistant", name: "Hm."}])
    assert style in CHAT_REASONING_STYLES
    assert read_message(style, *THOUGHT)[name] == "Let me see."


every_style = check_each("style", CHAT_REASONING_STYLES)


@every_style
def test_reasoning_has_the_client_style(style: str) -> None:
    assert read_message(style, *THOUGHT) == {
        "role": "assistant",
        "refusal": None,
        "metadata": {"reasoning": "Let me see."},
        **EXPECTED_MESSAGES[style],
    }


@every_style
def test_whole_answer_equals_the_folded_stream(style: str) -> None:
    """A provider of the client's protocol sends this without streaming."""
    message = {
        "role": "assistant",
        "content": "Yes.",
        "refusal": None,
        "reasoning_content": "Let me see.",
    }
    completion = {
        "id": "1", "object": "chat.completion", "vendor": {"x": 1}, "usage": {"total_tokens": 3},
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }  # fmt: skip
    answer = fold_chat(
        with_reasoning_style(lambda request: iter([[completion]]), style)({"stream": False})
    )
    assert answer["choices"][0]["message"] == read_message(style, *THOUGHT)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert {k: v for k, v in answer.items() if k != "choices"} == {
        k: v for k, v in completion.items() if k != "choices"
    }


@every_style
def test_reasoning_is_streamed(style: str) -> None:
    chunks = apply_style(style, *THOUGHT)
    if style != "none":
        assert sum("see." in str(c["choices"][0]["delta"]) for c in chunks[:-1]) == 1
    assert [c["choices"][0]["finish_reason"] for c in chunks].index("stop") == len(chunks) - 1
    assert chunks[-1]["choices"][0]["delta"] == {"metadata": {"reasoning": "Let me see."}}
    assert all("metadata" not in c["choices"][0]["delta"] for c in chunks[:-1])


@every_style
@check_each("case", list_cases("chat_over_responses", streams=True))
def test_styled_answer_matches_sdk_types_and_starts_with_the_role(style: str, case: Case) -> None:
    def upstream(request: Json) -> EventStream:
        return translate_case(case).answer(iter(batch_each_event(case.read("upstream.jsonl"))))

    chunks = collect_events(
        with_reasoning_style(upstream, style)({**case.read("request.json"), "stream": True})
    )
    if style != "parts":  # the SDK knows content only as text
        assert [mistake for chunk in chunks for mistake in sdk.chunk_mistakes(chunk)] == []
    roles = [c["choices"][0]["delta"].get("role") for c in chunks if c["choices"]]
    assert roles == ["assistant", *[None] * (len(roles) - 1)]


@every_style
def test_combined_chunk_is_split_in_order(style: str) -> None:
    deltas = [{"role": "assistant", "reasoning_content": "Let me see.", "content": "Yes."}]
    assert read_message(style, *deltas) == read_message(style, *THOUGHT)
    assert apply_style(style, *deltas)[0]["choices"][0]["delta"]["role"] == "assistant"


@check_each("style", ["thinking", "think"])
def test_inline_block_is_closed_before_calls_and_end(style: str) -> None:
    block = EXPECTED_MESSAGES[style]["content"].removesuffix("Yes.")
    with_call = read_message(
        style, ROLE, {"reasoning_content": "Let me see."}, {"tool_calls": [CALL]}
    )
    assert (with_call["content"], with_call["tool_calls"]) == (block, [WHOLE_CALL])
    assert read_message(style, ROLE, {"reasoning_content": "Let me see."})["content"] == block


CITATION = {"type": "url_citation", "url_citation": {"start_index": 2, "end_index": 5, "url": "u"}}
CITED_ANSWERS: dict[str, list[Json]] = {
    "a thought before": [ROLE, {"reasoning_content": "t"}, {"content": "ab123"}, {"content": "cd"}],
    "thoughts in pieces": [{"reasoning_content": "t"}, {"reasoning_content": "u"}, {"content": "ab123c"}],
    "a thought in front of the words": [{"content": "ab"}, {"reasoning_content": "t"}, {"content": "123c"}],
    "a thought behind them": [{"content": "ab123"}, {"reasoning_content": "t"}, {"content": "c"}],
    "two thoughts": [{"reasoning_content": "t"}, {"content": "a"}, {"reasoning_content": "u"}, {"content": "b123"}],
    "a thought at the end": [{"content": "ab123c"}, {"reasoning_content": "t"}],
    "no thought": [{"content": "ab123c"}],
}  # fmt: skip


@every_style
@check_each("deltas", CITED_ANSWERS.values(), ids=CITED_ANSWERS)
@check_each("is_whole", [False, True], ids=["streamed", "whole"])
def test_citation_positions_are_shifted(style: str, deltas: list[Json], is_whole: bool) -> None:
    upstream = make_handler(*deltas, {"annotations": [CITATION]})
    if is_whole:  # like the answer of a provider without streaming: all reasoning precedes all text
        completion = fold_chat(upstream({}))
        stream = with_reasoning_style(lambda request: iter([[completion]]), style)(
            {"stream": False}
        )
    else:
        stream = with_reasoning_style(upstream, style)({"stream": True})
    answer = fold_chat(stream)["choices"][0]["message"]
    content = answer["content"]
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    [cited] = [note["url_citation"] for note in answer["annotations"]]
    assert content[cited["start_index"] : cited["end_index"]] == "123"
    assert CITATION["url_citation"] == {"start_index": 2, "end_index": 5, "url": "u"}


@every_style
def test_logprobs_are_sent_once(style: str) -> None:
    entries = {"content": [{"token": "Yes"}], "refusal": None}
    text_chunk = make_chunk({"content": "Yes", "reasoning_content": "t"})
    text_chunk["choices"][0]["logprobs"] = entries
    chunks = [[make_chunk({"reasoning_content": "s"})], [text_chunk], [make_chunk({}, "stop")]]
    answer = fold_chat(with_reasoning_style(lambda request: iter(chunks), style)({"stream": True}))
    assert answer["choices"][0]["logprobs"] == entries


def test_later_reasoning_gets_its_own_block() -> None:
    deltas = [ROLE, {"content": "A"}, {"reasoning_content": "t"}, {"content": "B"}]
    assert read_message("thinking", *deltas)["content"] == "A\n\n[thinking]t[/thinking]\n\nB"


@every_style
def test_inline_styles_do_not_change_json_answers(style: str) -> None:
    for kind in ("json_object", "json_schema"):
        content = read_message(style, *THOUGHT, response_format={"type": kind})["content"]
        assert content == "Yes."
    assert (
        read_message(style, *THOUGHT, response_format={"type": "text"})["content"]
        == EXPECTED_MESSAGES[style]["content"]
    )


@check_each("field", ["reasoning_content", "reasoning"])
def test_field_styles_apply_to_json_answers(field: str) -> None:
    response_format = {"type": "json_object"}
    assert read_message(field, *THOUGHT, response_format=response_format)[field] == "Let me see."


def test_reasoning_summary_stays_in_metadata() -> None:
    chunks = [
        make_chunk({"reasoning_content": "t"}),
        make_chunk({"metadata": {"reasoning_summary": "s"}}, "stop"),
    ]
    answer = fold_chat(
        with_reasoning_style(lambda request: iter([chunks]), "none")({"stream": True})
    )
    assert answer["choices"][0]["message"]["metadata"] == {
        "reasoning": "t",
        "reasoning_summary": "s",
    }


@every_style
def test_answer_without_reasoning_is_unchanged(style: str) -> None:
    deltas = [ROLE, {"content": "Yes."}]
    assert apply_style(style, *deltas) == [*map(make_chunk, deltas), make_chunk({}, "stop")]


def test_no_style_leaves_reasoning_unchanged() -> None:
    assert apply_style(None, *THOUGHT) == [*map(make_chunk, THOUGHT), make_chunk({}, "stop")]


def test_choices_are_formatted_separately() -> None:
    def make_choice_chunk(index: int, delta: Json, finish: str | None = None) -> Json:
        chunk = make_chunk(delta, finish)
        return {**chunk, "choices": [{**chunk["choices"][0], "index": index}]}

    chunks = [make_choice_chunk(0, {"reasoning_content": "a"}), make_choice_chunk(1, {"content": "B"}), make_choice_chunk(0, {"content": "A"}),
              make_choice_chunk(1, {}, "stop"), make_choice_chunk(0, {}, "stop")]  # fmt: skip
    answer = fold_chat(
        with_reasoning_style(lambda request: iter([chunks]), "think")({"stream": True})
    )
    assert [c["message"]["content"] for c in answer["choices"]] == ["<think>a</think>\n\nA", "B"]


def test_heartbeat_is_passed_on() -> None:
    stream = with_reasoning_style(
        lambda request: iter([[], [make_chunk({"content": "a"})]]), "none"
    )({"stream": True})
    assert next(stream) == []


# -- usage --------------------------------------------------------------------------------------

USAGE = {"id": "1", "choices": [], "usage": {"total_tokens": 3}}


@check_each("style", [None, "thinking"])
@check_each(
    ("options", "is_sent"),
    [
        (None, False),
        ({}, False),
        ({"include_usage": False}, False),
        ({"include_usage": True}, True),
    ],
)
def test_usage_is_always_requested_and_sent_on_request(
    style: str | None, options: Json | None, is_sent: bool
) -> None:
    requests: list[Json] = []

    def upstream(request: Json) -> EventStream:
        requests.append(request)
        return iter([[make_chunk({"content": "a"}), USAGE], [USAGE], []])

    request = {"stream": True, "stream_options": options}
    batches = list(with_reasoning_style(upstream, style)(request))
    assert requests[0]["stream_options"]["include_usage"] is True
    assert [len(batch) for batch in batches] == ([2, 1, 0] if is_sent else [1, 0])
    assert request["stream_options"] == options


def test_usage_is_not_requested_without_streaming() -> None:
    requests: list[Json] = []

    def upstream(request: Json) -> EventStream:
        requests.append(request)
        return iter([[USAGE]])

    assert list(with_reasoning_style(upstream, None)({"stream": False})) == [[USAGE]]
    assert "stream_options" not in requests[0]


@check_each("name", ["stream_options", "response_format"])
def test_stream_options_of_wrong_type_are_rejected(name: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        apply_style("thinking", **{name: "x"})
    assert caught.value.param == name


# -- history ------------------------------------------------------------------------------------


def read_sent_messages(style: str | None, *messages: Any) -> Any:
    """The messages that reach the upstream."""
    requests: list[Json] = []

    def upstream(request: Json) -> EventStream:
        requests.append(request)
        return iter([])

    list(with_reasoning_style(upstream, style)({"messages": list(messages)}))
    return requests[0]["messages"]


WORDS = st.text(alphabet="ab \n<>[]/é😀", min_size=1).filter(str.strip)


@every_style
@given(thought=WORDS, text=WORDS)
def test_inserted_reasoning_is_removed_from_history(style: str, thought: str, text: str) -> None:
    answer = read_message(style, ROLE, {"reasoning_content": thought}, {"content": text})
    [returned] = read_sent_messages(style, answer)
    content = returned["content"]
    plain = content if isinstance(content, str) else "".join(part["text"] for part in content)
    assert plain == text
    assert returned.get("reasoning_content", returned.get("reasoning")) == thought
    assert "metadata" not in returned


@every_style
@given(texts=st.lists(WORDS, min_size=1, max_size=4))
def test_text_between_blocks_stays_one_text(style: str, texts: list[str]) -> None:
    deltas = [delta for text in texts for delta in ({"reasoning_content": "t"}, {"content": text})]
    [returned] = read_sent_messages(style, read_message(style, ROLE, *deltas))
    content = returned["content"]
    plain = content if isinstance(content, str) else "".join(part["text"] for part in content)
    assert plain == "".join(texts)


@every_style
def test_message_with_only_reasoning_and_calls_has_no_content(style: str) -> None:
    [returned] = read_sent_messages(
        style, read_message(style, {"reasoning_content": "t"}, {"tool_calls": [CALL]})
    )
    assert not returned["content"]
    assert returned["tool_calls"] == [WHOLE_CALL]


@check_each(
    "message",
    [
        {"role": "user", "content": "[thinking]mine[/thinking]\n\nYes."},
        {"role": "assistant", "content": "I say [thinking]no[/thinking]."},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "assistant", "content": "Yes.", "metadata": {"mine": "x"}},
        {"role": "assistant"},
        "odd",
    ],
)
def test_other_messages_are_unchanged(message: Any) -> None:
    assert read_sent_messages("thinking", message) == [message]
    assert read_sent_messages(None, message) == [message]


def test_reasoning_content_of_the_client_takes_precedence() -> None:
    message = {"role": "assistant", "content": "<think>a</think>\n\nYes.", "reasoning_content": "b"}
    assert read_sent_messages("think", message) == [
        {"role": "assistant", "content": "Yes.", "reasoning_content": "b"}
    ]


# -- blocks in the history are searched for in one pass ---------------------------------------------


class CountingPattern:
    """An expression that counts the characters between the start and the end of its searches."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self.searched_characters = 0

    def search(self, text: str, start: int = 0) -> re.Match[str] | None:
        match = self._pattern.search(text, start)
        self.searched_characters += (match.end() if match else len(text)) - start
        return match


@check_each(
    "piece",
    [
        "[thinking]",
        "\n\n[thinking]",
        "\n\n<think>",
        "\n\n[thinking]a</think>\n\n<think>b[/thinking]",
        "\n\n[thinking]a[/thinking] \n\n<think>b</think> ",
        "\n\n[thinking]a[/thinking]\n\n<think>b</think>",
        "[/thinking]\n",
    ],
)
@check_each("end", ["", "[/thinking]", "</think>", "[/thinking].</think>."])
def test_blocks_are_found_in_one_pass(
    piece: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = CountingPattern(reasoning_style._BLOCK_START)
    ends = {tag: CountingPattern(pattern) for tag, pattern in reasoning_style._BLOCK_ENDS.items()}
    text = piece * 1000 + end

    with monkeypatch.context() as patch:
        patch.setattr(reasoning_style, "_BLOCK_START", start)
        patch.setattr(reasoning_style, "_BLOCK_ENDS", ends)
        read_sent_messages("thinking", {"role": "assistant", "content": text})

    assert start.searched_characters <= 2 * len(text)
    assert all(pattern.searched_characters <= 2 * len(text) for pattern in ends.values())


_BLOCK = re.compile(
    r"(?:\A|\n\n)(?:\[thinking\](.*?)\[/thinking\]|<think>(.*?)</think>)(?:\n\n|\Z)", re.DOTALL
)
"""The reference definition of a block: one expression, which takes quadratic time."""

PIECES = st.sampled_from(
    ["[thinking]", "[/thinking]", "<think>", "</think>", "\n\n", "\n", "a", " "]
)


@given(st.lists(PIECES, max_size=14).map("".join))
@settings(max_examples=400)
def test_blocks_match_the_reference_expression(text: str) -> None:
    content, thoughts = reasoning_style.clean_content(text)

    assert (content, thoughts) == (
        _BLOCK.sub("", text),
        [a or b for a, b in _BLOCK.findall(text)],
    )
