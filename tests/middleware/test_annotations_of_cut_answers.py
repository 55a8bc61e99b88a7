"""Annotations of cut answers."""

from __future__ import annotations

from typing import Any

from forwarder.core.types import Event
from forwarder.middleware.annotations_of_cut_answers import with_cut_annotations
from tests.helpers.check_cases import check_each
from tests.helpers.sdk import chunk_mistakes
from tests.helpers.translating import collect_events
from tests.middleware.chatting import REQUEST, Scripted, make_chunk, make_text_chunks, one_by_one

Json = dict[str, Any]
CUT = {**REQUEST, "stop": "END"}
ANNOTATION = {"type": "url_citation", "url_citation": {"url": "u", "title": "t"}}
FILE = {"file_id": "f"}


def make_notes_chunk(*annotations: int, files: tuple[int, ...] = (), **metadata: Any) -> Event:
    """A side-data chunk with annotations that end at these positions."""
    side_data = {
        "annotations": [[at, {**ANNOTATION, "at": at}] for at in annotations],
        "files": [[at, {**FILE, "at": at}] for at in files],
        "metadata": metadata,
    }
    return make_chunk({"notes": side_data})


def read_events(*events: Event) -> list[Event]:
    opening, *rest = make_text_chunks("one", " two")
    return collect_events(
        with_cut_annotations(Scripted(one_by_one([opening, *rest[:2], *events, *rest[2:]])))(CUT)
    )


def list_later_deltas(events: list[Event]) -> list[Json]:
    """The deltas after the text."""
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    return [delta for delta in deltas[1:] if "content" not in delta]


def test_annotations_within_the_text_are_sent() -> None:
    events = read_events(make_notes_chunk(3), make_notes_chunk(3, 7, 8, files=(7, 9)))
    annotations = [{**ANNOTATION, "at": 3}, {**ANNOTATION, "at": 7}]
    metadata = {"files": [{**FILE, "at": 7}]}
    assert list_later_deltas(events) == [{"annotations": annotations}, {"metadata": metadata}]


def test_annotations_after_the_cut_are_dropped() -> None:
    assert list_later_deltas(read_events(make_notes_chunk(8, 9, files=(9,)))) == [{}]


def test_reasoning_summary_is_always_sent() -> None:
    assert list_later_deltas(read_events(make_notes_chunk(reasoning_summary="S"))) == [
        {"metadata": {"reasoning_summary": "S"}}
    ]


def test_answer_without_annotations_is_unchanged() -> None:
    assert read_events() == make_text_chunks("one", " two")


def test_empty_batches_pass_and_side_data_chunks_do_not() -> None:
    script = [[make_chunk({"content": "a"})], [], [make_notes_chunk(1)], [make_chunk({}, "stop")]]
    batches = list(with_cut_annotations(Scripted(script))(CUT))
    assert [len(batch) for batch in batches] == [1, 0, 2]


@check_each("parameters", [{}, {"stop": []}, {"max_tokens": 16}, {"max_tokens": None}])
def test_uncut_answer_is_the_inner_stream(parameters: Json) -> None:
    stream = iter([[]])
    assert with_cut_annotations(lambda request: stream)({**REQUEST, **parameters}) is stream


def test_sdk_accepts_every_chunk() -> None:
    events = read_events(make_notes_chunk(3, files=(3,)))
    assert [mistake for event in events for mistake in chunk_mistakes(event)] == []
