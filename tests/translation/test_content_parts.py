from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.translation import content_parts
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

URL = "https://example.org/a.png"

CONVERTED: list[tuple[str, Json, Json]] = [
    ("INPUT_TO_CHAT", {"type": "input_text", "text": "a"}, {"type": "text", "text": "a"}),
    ("INPUT_TO_CHAT", {"type": "output_text", "text": "a"}, {"type": "text", "text": "a"}),
    ("INPUT_TO_CHAT", {"type": "text", "text": "a"}, {"type": "text", "text": "a"}),
    ("INPUT_TO_CHAT", {"type": "input_image", "image_url": URL},
     {"type": "image_url", "image_url": {"url": URL}}),
    ("INPUT_TO_CHAT", {"type": "input_image", "image_url": URL, "detail": "high", "file_id": None},
     {"type": "image_url", "image_url": {"url": URL, "detail": "high"}}),
    ("INPUT_TO_CHAT", {"type": "input_file", "file_data": "d", "filename": "f", "detail": "low"},
     {"type": "file", "file": {"file_data": "d", "filename": "f"}}),
    *(("INPUT_TO_CHAT", audio, audio) for audio in (
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": "SUQz\nSUQ=\n", "format": "mp3"}},
        {"type": "input_audio", "input_audio": {"data": "data:;base64,SUQz", "format": "mp3"}},
    )),
    ("OUTPUT_TO_CHAT", {"type": "output_text", "text": "a", "annotations": [1]}, {"type": "text", "text": "a"}),
    ("OUTPUT_TO_CHAT", {"type": "refusal", "refusal": "no"}, {"type": "refusal", "refusal": "no"}),
    ("USER_TO_RESPONSES", {"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}},
     {"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}),
    ("USER_TO_RESPONSES", {"type": "image_url", "image_url": {"url": URL}},
     {"type": "input_image", "image_url": URL, "detail": "auto"}),
    ("USER_TO_RESPONSES", {"type": "image_url", "image_url": {"file_id": "file-1"}},
     {"type": "input_image", "file_id": "file-1", "detail": "auto"}),
    ("USER_TO_RESPONSES", {"type": "image_url", "image_url": URL},
     {"type": "input_image", "image_url": URL, "detail": "auto"}),
    ("USER_TO_RESPONSES", {"type": "image_url", "image_url": {"url": URL, "detail": "original"}},
     {"type": "input_image", "image_url": URL, "detail": "original"}),
    ("USER_TO_RESPONSES", {"type": "file", "file": {"file_id": "i", "filename": None}},
     {"type": "input_file", "file_id": "i"}),
    ("USER_TO_RESPONSES", {"type": "file", "file": {"file_url": URL}}, {"type": "input_file", "file_url": URL}),
    ("USER_TO_RESPONSES", {"type": "file", "file": {"file_data": "d", "filename": "f", "vendor": 1}},
     {"type": "input_file", "file_data": "d", "filename": "f"}),
    ("USER_WITH_AUDIO_TO_RESPONSES", {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
     {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}),
    ("USER_WITH_AUDIO_TO_RESPONSES", {"type": "input_audio", "input_audio": {"data": "data:audio/mp3;base64,SU\nQz", "format": "mp3"}},
     {"type": "input_audio", "input_audio": {"data": "SUQz", "format": "mp3"}}),
    ("ASSISTANT_TO_RESPONSES", {"type": "text", "text": "a"},
     {"type": "output_text", "text": "a", "annotations": []}),
    ("ASSISTANT_TO_RESPONSES", {"type": "refusal", "refusal": "no"}, {"type": "refusal", "refusal": "no"}),
]  # fmt: skip


@check_each(("table", "part", "converted"), CONVERTED)
def test_part_is_converted(table: str, part: Json, converted: Json) -> None:
    assert content_parts.convert_parts([part], getattr(content_parts, table), "content") == [
        converted
    ]


REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    ("INPUT_TO_CHAT", "a", InvalidRequest, "content[0]"),
    ("INPUT_TO_CHAT", {}, InvalidRequest, "content[0].type"),
    ("INPUT_TO_CHAT", {"type": "input_video"}, InvalidRequest, "content[0].type"),
    ("INPUT_TO_CHAT", {"type": "input_text"}, InvalidRequest, "content[0].text"),
    ("INPUT_TO_CHAT", {"type": "input_text", "text": 1}, InvalidRequest, "content[0].text"),
    ("INPUT_TO_CHAT", {"type": "input_image", "file_id": "f"}, Unsupported, "content[0].file_id"),
    ("INPUT_TO_CHAT", {"type": "input_file", "file_url": URL}, Unsupported, "content[0].file_url"),
    ("INPUT_TO_CHAT", {"type": "input_image"}, InvalidRequest, "content[0].image_url"),
    ("INPUT_TO_CHAT", {"type": "input_image", "image_url": URL, "detail": 1}, InvalidRequest, "content[0].detail"),
    ("INPUT_TO_CHAT", {"type": "input_file"}, InvalidRequest, "content[0].file_data"),
    ("INPUT_TO_CHAT", {"type": "input_file", "filename": "f"}, InvalidRequest, "content[0].file_data"),
    ("INPUT_TO_CHAT", {"type": "input_file", "file_data": 1}, InvalidRequest, "content[0].file_data"),
    ("INPUT_TO_CHAT", {"type": "input_audio"}, InvalidRequest, "content[0].input_audio"),
    *(
        ("INPUT_TO_CHAT", {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav", **changes}},
         InvalidRequest, f"content[0].input_audio.{next(iter(changes))}")
        for changes in ({"data": None}, {"data": ""}, {"data": "Ukl"}, {"data": "UklG="}, {"data": "U!lG"},
                    {"data": "https://example.org/a.wav"}, {"data": 1},
                    {"format": None}, {"format": "ogg"}, {"format": 1})
    ),
    ("TEXT_TO_CHAT", {"type": "input_image", "image_url": URL}, InvalidRequest, "content[0].type"),
    ("USER_TO_RESPONSES", {"type": "image_url", "image_url": {}}, InvalidRequest, "content[0].image_url.url"),
    ("USER_TO_RESPONSES", {"type": "image_url", "image_url": {"url": ""}}, InvalidRequest,
     "content[0].image_url.url"),
    ("USER_TO_RESPONSES", {"type": "image_url", "image_url": {"url": URL, "detail": 7}}, InvalidRequest,
     "content[0].image_url.detail"),
    ("INPUT_TO_CHAT", {"type": "input_image", "image_url": ""}, InvalidRequest, "content[0].image_url"),
    ("USER_TO_RESPONSES", {"type": "input_audio", "input_audio": {}}, Unsupported, "content[0]"),
    ("USER_TO_RESPONSES", {"type": "file", "file": {"filename": "f"}}, InvalidRequest, "content[0].file.file_data"),
    ("USER_TO_RESPONSES", {"type": "file", "file": {"file_url": 7}}, InvalidRequest, "content[0].file.file_url"),
    ("USER_WITH_AUDIO_TO_RESPONSES", {"type": "input_audio"}, InvalidRequest, "content[0].input_audio"),
    ("USER_WITH_AUDIO_TO_RESPONSES", {"type": "input_audio", "input_audio": {"format": "wav"}}, InvalidRequest,
     "content[0].input_audio.data"),
    *(("USER_WITH_AUDIO_TO_RESPONSES", {"type": "input_audio", "input_audio": {"data": wrong, "format": "wav"}}, InvalidRequest,
       "content[0].input_audio.data") for wrong in ("", "UklGRg", "U===", "Ukl*", "https://e.test/a.wav", 7)),
    *(("USER_WITH_AUDIO_TO_RESPONSES", {"type": "input_audio", "input_audio": {"data": "SUQz", "format": wrong}}, InvalidRequest,
       "content[0].input_audio.format") for wrong in ("ogg", None, 7)),
    ("ASSISTANT_TO_RESPONSES", {"type": "image_url", "image_url": URL}, InvalidRequest, "content[0].type"),
]  # fmt: skip


@check_each(("table", "part", "error", "param"), REFUSED)
def test_unsupported_part_error_names_the_path(
    table: str, part: Any, error: type[Exception], param: str
) -> None:
    with pytest.raises(error) as caught:
        content_parts.convert_parts([part], getattr(content_parts, table), "content")
    assert getattr(caught.value, "param", None) == param
    assert getattr(caught.value, "status", None) == 400


def test_user_part_survives_the_round_trip() -> None:
    for part in (
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
        {"type": "file", "file": {"file_data": "d", "filename": "f"}},
    ):
        input_parts = content_parts.convert_parts(
            [part], content_parts.USER_TO_RESPONSES, "content"
        )
        assert content_parts.convert_parts(input_parts, content_parts.INPUT_TO_CHAT, "content") == [
            part
        ]
