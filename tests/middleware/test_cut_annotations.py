"""What stands beside a text that is cut comes at its end, as far as it is about what came."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.types import Event
from forwarder.middleware.cut_annotations import with_cut_annotations
from tests.helpers.sdk import chunk_mistakes
from tests.helpers.translating import events_of
from tests.middleware.chatting import REQUEST, Scripted, chunk, one_by_one, said

Json = dict[str, Any]
CUT = {**REQUEST, "stop": "END"}
NOTE = {"type": "url_citation", "url_citation": {"url": "u", "title": "t"}}
FILE = {"file_id": "f"}


def notes(*annotations: int, files: tuple[int, ...] = (), **metadata: Any) -> Event:
    """A chunk of notes that end at these places."""
    told = {
        "annotations": [[at, {**NOTE, "at": at}] for at in annotations],
        "files": [[at, {**FILE, "at": at}] for at in files],
        "metadata": metadata,
    }
    return chunk({"notes": told})


def gathered(*events: Event) -> list[Event]:
    opening, *rest = said("one", " two")
    return events_of(
        with_cut_annotations(Scripted(one_by_one([opening, *rest[:2], *events, *rest[2:]])))(CUT)
    )


def told(events: list[Event]) -> list[Json]:
    """The deltas behind the text."""
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    return [delta for delta in deltas[1:] if "content" not in delta]


def test_what_ends_within_the_text_is_told() -> None:
    events = gathered(notes(3), notes(3, 7, 8, files=(7, 9)))
    annotations = [{**NOTE, "at": 3}, {**NOTE, "at": 7}]
    metadata = {"files": [{**FILE, "at": 7}]}
    assert told(events) == [{"annotations": annotations}, {"metadata": metadata}]


def test_what_ends_behind_it_is_not() -> None:
    assert told(gathered(notes(8, 9, files=(9,)))) == [{}]


def test_the_summary_of_what_was_thought_is_told_in_any_case() -> None:
    assert told(gathered(notes(reasoning_summary="S"))) == [
        {"metadata": {"reasoning_summary": "S"}}
    ]


def test_without_notes_nothing_is_added() -> None:
    assert gathered() == said("one", " two")


def test_silence_goes_through_and_notes_do_not() -> None:
    script = [[chunk({"content": "a"})], [], [notes(1)], [chunk({}, "stop")]]
    batches = list(with_cut_annotations(Scripted(script))(CUT))
    assert [len(batch) for batch in batches] == [1, 0, 2]


@pytest.mark.parametrize("uncut", [{}, {"stop": []}, {"max_tokens": 16}, {"max_tokens": None}])
def test_an_answer_that_is_not_cut_is_the_very_stream_of_the_call(uncut: Json) -> None:
    stream = iter([[]])
    assert with_cut_annotations(lambda request: stream)({**REQUEST, **uncut}) is stream


def test_the_sdk_accepts_every_chunk() -> None:
    events = gathered(notes(3, files=(3,)))
    assert [mistake for event in events for mistake in chunk_mistakes(event)] == []
