"""The exact events of each item; test_laws.py checks general properties."""

from __future__ import annotations

from typing import Any

from forwarder.translation.responses_over_chat.client_tool_kinds import (
    APPLY_PATCH,
    CUSTOM,
    FUNCTION,
    LOCAL_SHELL,
    SHELL,
    ClientToolKind,
)
from forwarder.translation.responses_over_chat.items import MessageItem, ReasoningItem, ToolCallItem
from forwarder.translation.responses_over_chat.tools import ClientTool
from tests.helpers.check_cases import check_each

Json = dict[str, Any]


def summarize_events(events: list[Json]) -> list[str]:
    """Return the types of the events and their main values."""
    lines = []
    for event in events:
        carried = next(
            (
                str(event[k])
                for k in ("delta", "text", "refusal", "arguments", "input")
                if k in event
            ),
            "",
        )
        lines.append(f"{event['type'].removeprefix('response.')} {carried}".strip())
    return lines


def test_text_message_events() -> None:
    message = MessageItem("msg_1", 3)
    events = [
        *message.open(),
        *message.append_text("a"),
        *message.append_text("b"),
        *message.close("completed"),
    ]
    assert summarize_events(events) == [
        "output_item.added",
        "content_part.added",
        "output_text.delta a",
        "output_text.delta b",
        "output_text.done ab",
        "content_part.done",
        "output_item.done",
    ]
    assert {event["output_index"] for event in events} == {3}
    assert {event["content_index"] for event in events[1:-1]} == {0}
    assert events[0]["item"] == {
        "id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": [],
    }  # fmt: skip
    assert events[-1]["item"] is message.final_item
    assert message.final_item["status"] == "completed"


def test_message_with_text_and_refusal_has_two_parts() -> None:
    message = MessageItem("msg_1", 0)
    events = [
        *message.append_text("a"),
        *message.append_refusal("n"),
        *message.append_refusal("o"),
        *message.close("incomplete"),
    ]
    assert summarize_events(events) == [
        "content_part.added",
        "output_text.delta a",
        "output_text.done a",
        "content_part.done",
        "content_part.added",
        "refusal.delta n",
        "refusal.delta o",
        "refusal.done no",
        "content_part.done",
        "output_item.done",
    ]
    assert [event.get("content_index") for event in events] == [0, 0, 0, 0, 1, 1, 1, 1, 1, None]
    assert message.final_item["status"] == "incomplete"
    assert message.final_item["content"][1] == {"type": "refusal", "refusal": "no"}


def test_text_part_has_annotations_and_logprobs() -> None:
    message = MessageItem("msg_1", 0)
    entry = {"token": "b", "bytes": [98], "logprob": -1.0, "top_logprobs": []}
    note = {"type": "file_path", "file_id": "f", "index": 0}
    assert not message.has_open_text
    events = [*message.append_text_with_logprobs("b", [entry]), *message.add_annotation(note)]
    assert (message.has_open_text, message.text_length) == (True, 0)  # the part is still open
    events += [*message.append_refusal("no"), *message.close("completed")]
    assert summarize_events(events)[:5] == [
        "content_part.added",
        "output_text.delta b",
        "output_text.annotation.added",
        "output_text.done b",
        "content_part.done",
    ]
    assert events[1]["logprobs"] == events[3]["logprobs"] == [entry]
    assert (events[2]["annotation"], events[2]["annotation_index"]) == (note, 0)
    assert events[0]["part"] == {
        "type": "output_text", "text": "", "annotations": [], "logprobs": [],
    }  # fmt: skip
    assert message.final_item["content"][0] == events[4]["part"] == {
        "type": "output_text", "text": "b", "annotations": [note], "logprobs": [entry],
    }  # fmt: skip
    assert (message.has_open_text, message.text_length) == (False, 1)


@check_each(
    ("style", "event_names"),
    [("summary", ["reasoning_summary_text"]), ("text", ["reasoning_text"]),
     ("both", ["reasoning_text", "reasoning_summary_text"])],
)  # fmt: skip
def test_reasoning_is_emitted_in_each_style(style: str, event_names: list[str]) -> None:
    item = ReasoningItem("rs_1", 0, style)
    events = [
        *item.open(),
        *item.append_text("a"),
        *item.append_text("b"),
        *item.close("completed"),
    ]
    parts = [
        {"reasoning_text": "content_part"}.get(event_name, "reasoning_summary_part")
        for event_name in event_names
    ]
    assert summarize_events(events) == [
        "output_item.added",
        *(f"{part}.added" for part in parts),
        *(f"{event_name}.delta a" for event_name in event_names),
        *(f"{event_name}.delta b" for event_name in event_names),
        *(
            line
            for event_name, part in zip(event_names, parts, strict=True)
            for line in (f"{event_name}.done ab", f"{part}.done")
        ),
        "output_item.done",
    ]
    assert bool(item.final_item["summary"]) == ("reasoning_summary_text" in event_names)
    assert ("content" in item.final_item) == ("reasoning_text" in event_names)


@check_each("style", ["summary", "text", "both"])
def test_empty_reasoning_can_be_encrypted(style: str) -> None:
    item = ReasoningItem("rs_1", 0, style)
    item.encrypted_content = "fwd1.x"
    assert summarize_events([*item.open(), *item.close("completed")]) == [
        "output_item.added",
        "output_item.done",
    ]
    assert item.final_item == {
        "id": "rs_1", "type": "reasoning", "summary": [], "status": "completed", "encrypted_content": "fwd1.x",
    }  # fmt: skip


def make_call_events(
    kind: ClientToolKind, *pieces: str, native: bool = False, status: str = "completed"
) -> list[Json]:
    call = ToolCallItem("x_1", 2, "call_1", ClientTool(kind, "t", "ns"), native)
    return [
        *call.open(),
        *(e for piece in pieces for e in call.append_arguments(piece)),
        *call.close(status),
    ]


CALLS: list[tuple[ClientToolKind, list[str], bool, str, list[str]]] = [
    (FUNCTION, ["{", "}"], False, "completed",
     ["function_call_arguments.delta {", "function_call_arguments.delta }", "function_call_arguments.done {}"]),
    (FUNCTION, [], False, "completed",
     ["function_call_arguments.delta {}", "function_call_arguments.done {}"]),
    (FUNCTION, [], False, "incomplete", ["function_call_arguments.done"]),
    (CUSTOM, ['{"input": "a', 'b"}'], False, "completed",
     ["custom_tool_call_input.delta a", "custom_tool_call_input.delta b", "custom_tool_call_input.done ab"]),
    (CUSTOM, ['{"x": 1, ', '"input": "a"}'], False, "completed",
     ["custom_tool_call_input.delta a", "custom_tool_call_input.done a"]),
    (CUSTOM, ['{"input": "a\\'], False, "incomplete",
     ["custom_tool_call_input.delta a", "custom_tool_call_input.done a"]),
    (CUSTOM, ['{"input": "a"}'], True, "completed",
     ['custom_tool_call_input.delta {"input": "a"}', 'custom_tool_call_input.done {"input": "a"}']),
    (SHELL, ['{"commands": ', '["ls"]}'], False, "completed", []),
]  # fmt: skip


@check_each(("kind", "pieces", "native", "status", "input_events"), CALLS)
def test_call_input_streams(
    kind: ClientToolKind, pieces: list[str], native: bool, status: str, input_events: list[str]
) -> None:
    events = make_call_events(kind, *pieces, native=native, status=status)
    assert summarize_events(events) == ["output_item.added", *input_events, "output_item.done"]
    added, done = events[0]["item"], events[-1]["item"]
    assert (added["status"], done["status"]) == ("in_progress", status)
    assert {added["namespace"], done["namespace"]} == {"ns"}
    assert {added["call_id"], done["call_id"]} == {"call_1"}
    assert ("name" in done) == kind.streams_input


def test_function_done_event_has_the_name() -> None:
    assert [
        e["name"] for e in make_call_events(FUNCTION, "{}") if e["type"].endswith("arguments.done")
    ] == ["t"]


@check_each(("kind", "status"), [(LOCAL_SHELL, "incomplete"), (APPLY_PATCH, "in_progress")])
def test_cut_call_has_no_partial_action(kind: ClientToolKind, status: str) -> None:
    item = make_call_events(kind, '{"command": ["rm", "-rf', status="incomplete")[-1]["item"]
    assert item["status"] == status
    assert "rm" not in str(item)
