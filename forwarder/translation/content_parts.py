"""Conversion of content parts between Chat and Responses: one table of part types each way.

Every converter takes the part and its path in the request, so that errors name the path.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from forwarder.core.base64_text import MAX_HEAD_LENGTH, is_base64, remove_blanks
from forwarder.core.errors import InvalidRequest, Unsupported, shorten_value
from forwarder.core.paced_iteration import iter_paced
from forwarder.core.types import Json
from forwarder.core.validate import (
    DICT,
    STR,
    check_enum,
    check_type,
    make_missing_parameter_error,
    read_field,
    require_field,
)

PartConverter = Callable[[Json, str], Json]


def convert_parts(parts: list[Any], table: dict[str, PartConverter], path: str) -> list[Json]:
    """Convert each part with the converter that ``table`` has for its type.

    Raises InvalidRequest for a malformed part, Unsupported for one that the upstream cannot take.
    """
    return [convert_part(part, table, f"{path}[{i}]") for i, part in enumerate(iter_paced(parts))]


def convert_part(part: Any, table: dict[str, PartConverter], path: str) -> Json:
    """Convert one part like ``convert_parts``."""
    kind = require_field(check_type(part, DICT, path), "type", STR, f"{path}.type")
    converter = table.get(kind)
    if converter is None:
        raise InvalidRequest(
            f"Invalid value for '{path}.type': '{shorten_value(kind)}'. Supported values are: "
            + ", ".join(f"'{name}'" for name in table)
            + ".",
            param=f"{path}.type",
            code="invalid_value",
        )
    return converter(part, path)


# -- Responses -> Chat --------------------------------------------------------------------------


def convert_text_to_chat(part: Json, path: str) -> Json:
    return {"type": "text", "text": require_field(part, "text", STR, f"{path}.text")}


def convert_refusal(part: Json, path: str) -> Json:
    return {"type": "refusal", "refusal": require_field(part, "refusal", STR, f"{path}.refusal")}


def convert_image_to_chat(part: Json, path: str) -> Json:
    url = read_field(part, "image_url", STR, f"{path}.image_url")
    if not url:
        require_field(part, "file_id", STR, f"{path}.image_url")
        raise Unsupported(
            f"'{path}.file_id': the upstream does not accept images by file id; "
            "send the image's URL or data.",
            param=f"{path}.file_id",
        )
    image = {"url": url}
    detail = read_field(part, "detail", STR, f"{path}.detail")
    if detail:
        image["detail"] = detail
    return {"type": "image_url", "image_url": image}


def convert_file_to_chat(part: Json, path: str) -> Json:
    if part.get("file_url") is not None:
        raise Unsupported(
            f"'{path}.file_url': the upstream accepts files by value or by id, not by URL.",
            param=f"{path}.file_url",
        )
    names = ("file_data", "file_id", "filename")
    file = {k: v for k in names if (v := read_field(part, k, STR, f"{path}.{k}")) is not None}
    if file.keys() <= {"filename"}:
        raise make_missing_parameter_error(f"{path}.file_data")
    return {"type": "file", "file": file}


_AUDIO_DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
"""Some clients send a data URL, and some vendors accept it."""


def read_audio(part: Json, path: str) -> tuple[Json, str]:
    """Return the ``input_audio`` object of a part, and its base64 without a data URL prefix."""
    path = f"{path}.input_audio"
    audio = require_field(part, "input_audio", DICT, path)
    data = require_field(audio, "data", STR, f"{path}.data")
    kind = require_field(audio, "format", STR, f"{path}.format")
    check_enum(kind, ("wav", "mp3"), f"{path}.format")
    head = _AUDIO_DATA_URL.match(data, 0, MAX_HEAD_LENGTH)
    bare = remove_blanks(data[head.end() :] if head else data)
    if len(bare) % 4 or not is_base64(bare):
        raise InvalidRequest(
            f"Invalid value for '{path}.data': it is not valid base64.",
            param=f"{path}.data",
            code="invalid_value",
        )
    return audio, bare


def convert_audio_to_chat(part: Json, path: str) -> Json:
    audio, _ = read_audio(part, path)
    return {"type": "input_audio", "input_audio": audio}


INPUT_TO_CHAT: dict[str, PartConverter] = {
    "input_text": convert_text_to_chat,
    "output_text": convert_text_to_chat,
    "text": convert_text_to_chat,
    "input_image": convert_image_to_chat,
    "input_file": convert_file_to_chat,
    "input_audio": convert_audio_to_chat,
}
"""Part types of user messages and tool results."""

OUTPUT_TO_CHAT: dict[str, PartConverter] = {
    "output_text": convert_text_to_chat,
    "input_text": convert_text_to_chat,
    "text": convert_text_to_chat,
    "refusal": convert_refusal,
}
"""Part types of assistant messages."""

TEXT_TO_CHAT: dict[str, PartConverter] = {
    "input_text": convert_text_to_chat,
    "output_text": convert_text_to_chat,
    "text": convert_text_to_chat,
}
"""Part types of system and developer messages; clients use the names of both protocols."""


# -- Chat -> Responses --------------------------------------------------------------------------


def with_cache_breakpoint(part: Json, converted: Json) -> Json:
    if part.get("prompt_cache_breakpoint") is not None:
        converted["prompt_cache_breakpoint"] = part["prompt_cache_breakpoint"]
    return converted


def convert_text_to_input(part: Json, path: str) -> Json:
    text = require_field(part, "text", STR, f"{path}.text")
    return with_cache_breakpoint(part, {"type": "input_text", "text": text})


def convert_text_to_output(part: Json, path: str) -> Json:
    text = require_field(part, "text", STR, f"{path}.text")
    return {"type": "output_text", "text": text, "annotations": []}


def convert_image_to_input(part: Json, path: str) -> Json:
    image = require_field(part, "image_url", (dict, str), f"{path}.image_url")
    if isinstance(image, str):  # an old spelling that some clients still send
        image = {"url": image}
    # The Responses API requires a detail.
    detail = read_field(image, "detail", STR, f"{path}.image_url.detail") or "auto"
    source = read_image_source(image, f"{path}.image_url")
    return with_cache_breakpoint(part, {"type": "input_image", **source, "detail": detail})


def read_image_source(image: Json, path: str) -> Json:
    """Return ``{image_url}``, or ``{file_id}``, which some Chat clients send too."""
    file_id = read_field(image, "file_id", STR, f"{path}.file_id")
    if file_id and not image.get("url"):
        return {"file_id": file_id}
    url = require_field(image, "url", STR, f"{path}.url")
    if not url:
        raise make_missing_parameter_error(f"{path}.url")
    return {"image_url": url}


_FILE_SOURCES = ("file_data", "file_id", "file_url")
_FILE_FIELDS = (*_FILE_SOURCES, "filename")


def convert_file_to_input(part: Json, path: str) -> Json:
    path = f"{path}.file"
    file = require_field(part, "file", DICT, path)
    fields = {name: read_field(file, name, STR, f"{path}.{name}") for name in _FILE_FIELDS}
    carried = {name: value for name, value in fields.items() if value is not None}
    if carried.keys().isdisjoint(_FILE_SOURCES):
        raise make_missing_parameter_error(f"{path}.file_data")
    return with_cache_breakpoint(part, {"type": "input_file", **carried})


def refuse_audio(part: Json, path: str) -> Json:
    raise Unsupported(
        f"'{path}': the upstream does not accept audio input.",
        param=path,
        code="unsupported_value",
    )


def convert_audio_to_input(part: Json, path: str) -> Json:
    audio, bare = read_audio(part, path)
    sound = {"data": bare, "format": audio["format"]}
    return with_cache_breakpoint(part, {"type": "input_audio", "input_audio": sound})


USER_TO_RESPONSES: dict[str, PartConverter] = {
    "text": convert_text_to_input,
    "image_url": convert_image_to_input,
    "file": convert_file_to_input,
    "input_audio": refuse_audio,
}
"""Part types of user, system and tool messages."""

USER_WITH_AUDIO_TO_RESPONSES = {**USER_TO_RESPONSES, "input_audio": convert_audio_to_input}
"""The same part types for an upstream that accepts audio.  OpenAI's Responses API does not."""

ASSISTANT_TO_RESPONSES: dict[str, PartConverter] = {
    "text": convert_text_to_output,
    "refusal": convert_refusal,
}
"""Part types of assistant messages."""
