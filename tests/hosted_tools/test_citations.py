"""Citations of sources in a text."""

from __future__ import annotations

from forwarder.hosted_tools.citations import annotate_event, annotate_item, find_citations
from tests.helpers.check_cases import check_each

SOURCES = {"https://www.example.org/a": "Page A", "https://example.org/b(c)": "Page B"}


@check_each(
    ("text", "expected"),
    [
        ("See [A](https://www.example.org/a).", ["[A](https://www.example.org/a)"]),
        ("See https://example.org/a/ now", ["https://example.org/a/"]),
        ("(https://example.org/a?utm_source=x).", ["https://example.org/a?utm_source=x"]),
        ("ä [B](https://example.org/b(c)) ö", ["[B](https://example.org/b(c))"]),
        ("[A](http://example.org/a#x) https://example.org/a",
         ["[A](http://example.org/a#x)", "https://example.org/a"]),
        ("[other](https://other.org/)", []),
        ("[broken](https://www.example.org/a", ["https://www.example.org/a"]),
        ("no link", []),
    ],
)  # fmt: skip
def test_links_to_known_sources_are_cited(text: str, expected: list[str]) -> None:
    citations = find_citations(text, SOURCES)
    assert [text[c["start_index"] : c["end_index"]] for c in citations] == expected
    assert all(c["url"] in SOURCES and c["title"] == SOURCES[c["url"]] for c in citations)


def test_message_and_its_events_have_the_same_citations() -> None:
    text = "See https://www.example.org/a"
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {"type": "message", "content": [part, {"type": "refusal", "refusal": "no"}]}
    annotations = annotate_item(message, SOURCES)["content"][0]["annotations"]
    position = {"item_id": "m", "output_index": 0, "content_index": 0}
    text_done = {"type": "response.output_text.done", **position, "text": text}
    *added, last = annotate_event(text_done, SOURCES)
    assert last == text_done
    assert [event["annotation"] for event in added] == annotations
    part_done = {"type": "response.content_part.done", **position, "part": part}
    assert annotate_event(part_done, SOURCES)[0]["part"]["annotations"] == annotations
    assert len(annotations) == 1


def test_nothing_changes_without_sources() -> None:
    message = {"type": "message", "content": [{"type": "output_text", "text": "https://x.org"}]}
    assert annotate_item(message, {}) is message
    assert annotate_item({"type": "reasoning"}, SOURCES) == {"type": "reasoning"}
    delta = {"type": "response.output_text.delta", "delta": "https://www.example.org/a"}
    assert annotate_event(delta, SOURCES) == [delta]


def test_hostile_text_has_no_citations() -> None:
    for text in ("[" * 50_000, "[a](" * 20_000, "https://" * 20_000, "[a](https://x(" * 10_000):
        assert find_citations(text, SOURCES) == []


def test_very_long_url_is_not_cited() -> None:
    urls = ["https://example.org/" + "a" * length for length in (4000, 5000)]
    citations = find_citations(" ".join(urls), dict.fromkeys(urls, "Long"))
    assert [citation["url"] for citation in citations] == urls[:1]
