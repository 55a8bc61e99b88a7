"""Converts the blocks of Messages requests to content parts in the form of Chat.

Each block comes with its path in the request, so that errors name the path.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from forwarder.core.base64_text import is_base64
from forwarder.core.errors import InvalidRequest, shorten_value
from forwarder.core.paced_iteration import iter_paced
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.core.validate import (
    DICT,
    LIST,
    STR,
    check_enum,
    check_type,
    make_missing_parameter_error,
    read_field,
    require_field,
)
from forwarder.protocols.messages_dispositions import MESSAGES_BLOCKS

_MEDIA_TYPE = re.compile(r"[\w.+-]{1,127}/[\w.+-]{1,127}", re.ASCII)

PathBlock = tuple[Json, str]
"""A block and its path in the request."""


def join_texts(blocks: list[Any], path: str) -> str:
    """Join text blocks to one text with paragraphs."""
    texts = [read_text(block, f"{path}[{i}]") for i, block in enumerate(iter_paced(blocks))]
    return "\n\n".join(filter(None, texts))


def read_text(value: Any, path: str) -> str:
    block = check_type(value, DICT, path)
    check_enum(require_field(block, "type", STR, f"{path}.type"), ("text",), f"{path}.type")
    return str(require_field(block, "text", STR, f"{path}.text"))


def list_blocks(message: Json, path: str) -> list[PathBlock]:
    content = require_field(message, "content", (str, list), path)
    if isinstance(content, str):
        return [({"type": "text", "text": content}, path)]
    return [
        (check_type(block, DICT, f"{path}[{i}]"), f"{path}[{i}]")
        for i, block in enumerate(iter_paced(content))
    ]


def make_text(text: str, path: str) -> PathBlock:
    return {"type": "text", "text": text}, path


def convert_block(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    """Convert a block of the user to parts in the form of Chat."""
    kind = require_field(block, "type", STR, f"{path}.type")
    converter = USER_BLOCKS.get(kind)
    if converter is not None:
        return converter(block, path, loss_report)
    skip_block(kind, f"{path}.type", loss_report)
    return []


def skip_block(kind: str, path: str, loss_report: LossReport) -> None:
    """Report a block that cannot be sent upstream.  Raises InvalidRequest for an unknown type."""
    row = MESSAGES_BLOCKS.get(kind)
    if row is None or row.kind not in ("noted", "dropped"):
        raise InvalidRequest(
            f"Invalid value for '{path}': '{shorten_value(kind)}'.",
            param=path,
            code="invalid_value",
        )
    report = loss_report.drop if row.kind == "dropped" else loss_report.note
    report(f"messages.{kind}", row.reason)


def convert_text(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    text = require_field(block, "text", STR, f"{path}.text")
    if block.get("citations"):
        note_row("text, with citations", "citations", loss_report)
    return [make_text(text, path)] if text else []


def note_row(row: str, name: str, loss_report: LossReport) -> None:
    loss_report.note(f"messages.{name}", MESSAGES_BLOCKS[row].reason)


def convert_image(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    if block.get("transformations"):
        loss_report.drop(
            "messages.transformations", MESSAGES_BLOCKS["image, with transformations"].reason
        )
    place = f"{path}.source"
    source = require_field(block, "source", DICT, place)
    kind = check_enum(
        require_field(source, "type", STR, f"{place}.type"),
        ("base64", "url", "file"),
        f"{place}.type",
    )
    if kind == "file":
        image = {"file_id": require_text(source, "file_id", place)}
    elif kind == "url":
        image = {"url": require_text(source, "url", place)}
    else:
        image = {"url": read_data_url(source, place)}
    return [({"type": "image_url", "image_url": image}, path)]


def require_text(source: Json, key: str, path: str) -> str:
    """Return the URL or the id of a file; raises InvalidRequest if it is missing or empty."""
    text: str = require_field(source, key, STR, f"{path}.{key}")
    if not text:
        raise make_missing_parameter_error(f"{path}.{key}")
    return text


def read_data_url(source: Json, path: str) -> str:
    media = require_field(source, "media_type", STR, f"{path}.media_type")
    data = require_field(source, "data", STR, f"{path}.data")
    if not is_base64(data) or not _MEDIA_TYPE.fullmatch(media):
        raise InvalidRequest(
            f"Invalid value for '{path}': it is not valid base64 with a media type.",
            param=path,
            code="invalid_value",
        )
    return f"data:{media};base64,{data}"


def convert_document(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    """Convert a document, preceded by a text with its title and context."""
    title = read_field(block, "title", STR, f"{path}.title")
    notes = [f"Document: {title}" if title else ""]
    notes.append(read_field(block, "context", STR, f"{path}.context") or "")
    check_citations(block, path, loss_report)
    place = f"{path}.source"
    source = require_field(block, "source", DICT, place)
    kind = require_field(source, "type", STR, f"{place}.type")
    check_enum(kind, tuple(_DOCUMENT_SOURCES), f"{place}.type")
    head = "\n".join(filter(None, notes))
    parts = _DOCUMENT_SOURCES[kind](source, title, place, loss_report)
    return [*([make_text(head, path)] if head else ()), *parts]


def check_citations(block: Json, path: str, loss_report: LossReport) -> None:
    """Report the request for citations of a document or a search result."""
    citations = read_field(block, "citations", DICT, f"{path}.citations") or {}
    if citations.get("enabled"):
        row = MESSAGES_BLOCKS[f"{block['type']}, with citations"]
        loss_report.drop("messages.citations", row.reason)


def make_file(fields: Json, title: str | None, path: str) -> list[PathBlock]:
    name = title or "document"
    name = name if name.lower().endswith(".pdf") else f"{name}.pdf"  # providers use the extension
    named = fields if "file_id" in fields else {**fields, "filename": name}
    return [({"type": "file", "file": named}, path)]


def convert_content_source(
    source: Json, title: str | None, path: str, loss_report: LossReport
) -> list[PathBlock]:
    return [
        part
        for block, place in list_blocks(source, f"{path}.content")
        for part in convert_block(block, place, loss_report)
    ]


_DOCUMENT_SOURCES: dict[str, Callable[[Json, str | None, str, LossReport], list[PathBlock]]] = {
    "base64": lambda source, title, path, loss_report: make_file(
        {"file_data": read_data_url(source, path)}, title, path
    ),
    "url": lambda source, title, path, loss_report: make_file(
        {"file_url": require_text(source, "url", path)}, title, path
    ),
    "file": lambda source, title, path, loss_report: make_file(
        {"file_id": require_text(source, "file_id", path)}, title, path
    ),
    "text": lambda source, title, path, loss_report: [
        make_text(require_field(source, "data", STR, f"{path}.data"), path)
    ],
    "content": convert_content_source,
}
"""The type of a document's source -> its converter."""


def convert_search_result(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    title = require_field(block, "title", STR, f"{path}.title")
    source = require_field(block, "source", STR, f"{path}.source")
    check_citations(block, path, loss_report)
    content = require_field(block, "content", LIST, f"{path}.content")
    text = join_texts(content, f"{path}.content")
    return [make_text(f"Search result: {title}\nSource: {source}\n\n{text}", path)]


def convert_tool_reference(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    name = require_field(block, "tool_name", STR, f"{path}.tool_name")
    return [make_text(f"The tool '{name}' is available.", path)]


def convert_compaction(block: Json, path: str, loss_report: LossReport) -> list[PathBlock]:
    text = read_field(block, "content", STR, f"{path}.content")
    return [make_text(text, path)] if text else []


USER_BLOCKS: dict[str, Callable[[Json, str, LossReport], list[PathBlock]]] = {
    "text": convert_text,
    "image": convert_image,
    "document": convert_document,
    "search_result": convert_search_result,
    "tool_reference": convert_tool_reference,
    "compaction": convert_compaction,
}
"""Type of a block -> its converter."""
