"""Blocks of Messages requests as content parts."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import LossReport
from forwarder.translation.messages_request_content import convert_block, join_texts
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
IMAGE = {"type": "base64", "media_type": "image/png", "data": "iVBO\nRw=="}


def convert(block: Json, loss_report: LossReport | None = None) -> list[Json]:
    return [part for part, _ in convert_block(block, "b", loss_report or LossReport())]


def make_document(source: Json, **fields: Any) -> Json:
    return {"type": "document", "source": source, **fields}


@check_each(
    ("source", "image"),
    [
        (IMAGE, {"url": "data:image/png;base64,iVBO\nRw=="}),
        ({"type": "url", "url": "https://example.com"}, {"url": "https://example.com"}),
        ({"type": "file", "file_id": "file-1"}, {"file_id": "file-1"}),
    ],
)
def test_images_have_three_sources(source: Json, image: Json) -> None:
    assert convert({"type": "image", "source": source}) == [
        {"type": "image_url", "image_url": image}
    ]


@check_each(
    ("title", "name"),
    [(None, "document.pdf"), ("Report", "Report.pdf"), ("a.PDF", "a.PDF")],
)
def test_files_have_names_that_end_like_their_type(title: str | None, name: str) -> None:
    *_, part = convert(make_document(PDF, title=title))

    assert part["file"] == {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": name}


def test_files_by_id_have_no_name() -> None:
    assert convert(make_document({"type": "file", "file_id": "file-1"})) == [
        {"type": "file", "file": {"file_id": "file-1"}}
    ]


def test_title_and_context_come_before_a_document() -> None:
    texts = convert(make_document({"type": "text", "data": "x"}, title="T", context="C"))

    assert [part["text"] for part in texts] == ["Document: T\nC", "x"]


def test_documents_may_contain_blocks_or_a_text() -> None:
    blocks = [{"type": "text", "text": "a"}, {"type": "image", "source": IMAGE}]

    nested = convert(make_document({"type": "content", "content": blocks}))
    assert [part["type"] for part in nested] == ["text", "image_url"]
    assert convert(make_document({"type": "content", "content": "b"})) == [
        {"type": "text", "text": "b"}
    ]


def test_empty_texts_are_omitted() -> None:
    assert convert({"type": "text", "text": ""}) == []
    assert join_texts([{"type": "text", "text": text} for text in ("a", "", "b")], "x") == "a\n\nb"


@check_each(
    ("block", "name"),
    [
        (make_document(PDF, citations={"enabled": True}), "messages.citations"),
        (
            {"type": "image", "source": IMAGE, "transformations": {"oversized_image": "error"}},
            "messages.transformations",
        ),
        (
            {
                "type": "search_result",
                "title": "t",
                "source": "s",
                "content": [{"type": "text", "text": "x"}],
                "citations": {"enabled": True},
            },
            "messages.citations",
        ),
        ({"type": "container_upload", "file_id": "x"}, "messages.container_upload"),
    ],
)
def test_losses_are_reported_and_refused_in_strict_mode(block: Json, name: str) -> None:
    loss_report = LossReport()
    convert(block, loss_report)

    assert list(loss_report.losses) == [name]
    with pytest.raises(Unsupported):
        convert(block, LossReport(strict=True))


def test_ineffective_fields_are_noted_in_strict_mode() -> None:
    loss_report = LossReport(strict=True)

    assert convert({"type": "browser_state", "tabs": []}, loss_report) == []
    assert list(loss_report.losses) == ["messages.browser_state"]


@check_each("kind", ["image", "document"])
@check_each(("source", "field"), [("url", "url"), ("file", "file_id")])
def test_empty_file_sources_are_rejected(kind: str, source: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        convert({"type": kind, "source": {"type": source, field: ""}})
    assert caught.value.param == f"b.source.{field}"


@check_each(
    "changes",
    [
        *({"data": text} for text in ("", "é", "a=b", "====", "data:image/png;base64,AAAA")),
        *({"media_type": text} for text in ("", "png", "image/é", f"image/{'a' * 128}")),
    ],
)
def test_invalid_base64_or_media_type_is_rejected(changes: Json) -> None:
    with pytest.raises(InvalidRequest):
        convert({"type": "image", "source": {**IMAGE, **changes}})
