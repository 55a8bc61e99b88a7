"""Converts the tools and results of MCP servers to bounded JSON for models and clients."""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

import orjson

from forwarder.core.types import Json

MAX_TOOLS = 256
"""Maximum number of tools of one server, after the client's filter."""

MAX_TOOLS_BYTES = 2**20
"""Maximum size of the JSON of one server's tools."""

MAX_TEXT_LENGTH = 2**18
"""Maximum number of characters of a result's texts together; the rest is cut."""

MAX_MEDIA_LENGTH = 2**23
"""Maximum number of Base64 characters of a result's images together."""

CUT_NOTE = "\n[The result is longer. Its end was left out.]"


class McpTool(TypedDict):
    """A tool as an ``mcp_list_tools`` item shows it."""

    name: str
    description: str | None
    input_schema: Json
    annotations: Json | None


class ToolResult(NamedTuple):
    """The result of a call.

    ``parts`` are ``input_text`` and ``input_image`` parts for the model; ``text`` is their text for
    the client's item, where images are only named. ``structured`` is the structured content.
    """

    parts: list[Json]
    text: str
    is_error: bool = False
    structured: Any = None

    @property
    def output(self) -> str | list[Json]:
        """The ``output`` of a ``function_call_output``: a text unless the result has images."""
        has_images = any(part["type"] == "input_image" for part in self.parts)
        return self.parts if has_images else self.text


def convert_tool(tool: Json) -> McpTool:
    """Convert a tool of a ``tools/list`` result; raises ValueError if it is malformed."""
    name, schema = tool.get("name"), tool.get("inputSchema")
    if not isinstance(name, str) or not name or not isinstance(schema, dict):
        raise ValueError("a tool without name or schema")
    annotations = tool.get("annotations")
    return {
        "name": name,
        "description": str(tool.get("description") or tool.get("title") or "") or None,
        "input_schema": schema,
        "annotations": annotations if isinstance(annotations, dict) else None,
    }


def measure_tools(tools: list[McpTool]) -> int:
    """Return the size in bytes of the JSON of tools."""
    return len(orjson.dumps(tools))


def convert_result(result: Json) -> ToolResult:
    """Convert a ``tools/call`` result, with content of any type.

    Structured content is used only if there is no other: servers repeat it as a text.
    """
    parts: list[Json] = []
    texts: list[str] = []
    room, media_room = MAX_TEXT_LENGTH, MAX_MEDIA_LENGTH
    blocks = [block for block in result.get("content") or () if isinstance(block, dict)]
    structured = result.get("structuredContent")
    if not blocks and structured is not None:
        blocks = [{"type": "text", "text": orjson.dumps(structured).decode()}]
    for block in blocks:
        image = read_image(block)
        if image is not None and len(image) <= media_room:
            media_room -= len(image)
            parts.append({"type": "input_image", "image_url": image, "detail": "auto"})
            texts.append(describe_media(block))
            continue
        text = read_text(block)
        if len(text) > room:
            text = text[:room] + CUT_NOTE
        room = max(0, room - len(text))
        parts.append({"type": "input_text", "text": text})
        texts.append(text)
        if not room:
            break
    return ToolResult(parts, "\n".join(texts), result.get("isError") is True, structured)


def read_image(block: Json) -> str | None:
    """Return the data URL of an image block; ``None`` for other blocks."""
    if block.get("type") == "image" and isinstance(block.get("data"), str):
        return f"data:{block.get('mimeType') or 'image/png'};base64,{block['data']}"
    return None


def read_text(block: Json) -> str:
    """Return the text of a block; media that the model cannot get is only named."""
    kind = block.get("type")
    if kind == "text":
        return str(block.get("text") or "")
    if kind == "resource" and isinstance(block.get("resource"), dict):
        resource = block["resource"]
        text = resource.get("text")
        return str(text) if text is not None else describe_media(resource)
    if kind == "resource_link":
        names = (block.get("title") or block.get("name"), block.get("uri"))
        return ": ".join(str(name) for name in names if name)
    return describe_media(block)


def describe_media(block: Json) -> str:
    data: Any = block.get("data") or block.get("blob") or ""
    size = len(data) * 3 // 4 if isinstance(data, str) else 0
    kind = block.get("mimeType") or block.get("type") or "content"
    name = f" {block['uri']}" if isinstance(block.get("uri"), str) else ""
    return f"[{kind}{name}, {size} bytes]"
