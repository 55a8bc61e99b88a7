"""Tools and results of MCP servers."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.hosted_tools.mcp_content import (
    CUT_NOTE,
    MAX_MEDIA_LENGTH,
    MAX_TEXT_LENGTH,
    convert_result,
    convert_tool,
    measure_tools,
)
from tests.helpers.check_cases import check_each


def make_block(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, **fields}


@check_each(
    ("content", "text"),
    [
        ([make_block("text", text="a"), make_block("text", text="b")], "a\nb"),
        ([make_block("resource", resource={"uri": "file:///x", "text": "body"})], "body"),
        (
            [make_block("resource", resource={"uri": "x:1", "mimeType": "a/b", "blob": "AAAA"})],
            "[a/b x:1, 3 bytes]",
        ),
        ([make_block("resource_link", name="N", uri="https://h/")], "N: https://h/"),
        ([make_block("audio", data="AAAA", mimeType="audio/wav")], "[audio/wav, 3 bytes]"),
        ([make_block("new kind")], "[new kind, 0 bytes]"),
        (["no object", None], ""),
        ([], ""),
    ],
)
def test_content_of_any_type_is_a_text(content: list[Any], text: str) -> None:
    assert convert_result({"content": content}).output == text


def test_images_are_parts_for_the_model_and_named_for_the_client() -> None:
    result = convert_result({"content": [make_block("image", data="AAAA", mimeType="image/gif")]})
    assert result.text == "[image/gif, 3 bytes]"
    assert result.output == [
        {"type": "input_image", "image_url": "data:image/gif;base64,AAAA", "detail": "auto"}
    ]


def test_images_above_the_limit_are_only_named() -> None:
    large = make_block("image", data="A" * (MAX_MEDIA_LENGTH - 4), mimeType="image/png")
    result = convert_result({"content": [large, large]})
    assert [part["type"] for part in result.parts] == ["input_text", "input_text"]


def test_structured_content_is_used_only_alone() -> None:
    assert convert_result({"content": [], "structuredContent": {"a": 1}}).text == '{"a":1}'
    content_and_structure = {
        "content": [make_block("text", text="a is 1")],
        "structuredContent": {"a": 1},
    }
    assert convert_result(content_and_structure).text == "a is 1"


def test_texts_are_cut_together() -> None:
    texts = [make_block("text", text="x" * MAX_TEXT_LENGTH), make_block("text", text="never seen")]
    assert convert_result({"content": texts}).text == "x" * MAX_TEXT_LENGTH
    longer = [make_block("text", text="x"), make_block("text", text="y" * MAX_TEXT_LENGTH)]
    assert convert_result({"content": longer}).text.endswith("y" + CUT_NOTE)


def test_tool_keeps_its_schema_and_hints() -> None:
    schema = {"type": "object"}
    tool = convert_tool(
        {"name": "t", "title": "T", "inputSchema": schema, "annotations": {"readOnlyHint": True}}
    )
    assert tool == {
        "name": "t",
        "description": "T",
        "input_schema": schema,
        "annotations": {"readOnlyHint": True},
    }
    assert measure_tools([tool]) > 50


@check_each("tool", [{}, {"name": "", "inputSchema": {}}, {"name": "a"}])
def test_malformed_tool_is_refused(tool: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="without name or schema"):
        convert_tool(tool)
