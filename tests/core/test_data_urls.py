"""Data URLs and detection of media types."""

from __future__ import annotations

import base64

import pytest

from forwarder.core import data_urls, paced_iteration
from tests.helpers.check_cases import check_each

PDF = b"%PDF-1.7 ..."


def encode_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@check_each(
    ("text", "kind"),
    [
        ("data:application/pdf;base64,{}", "application/pdf"),
        ("DATA:Application/PDF;BASE64,{}", "application/pdf"),
        ("data:text/plain;charset=utf-8;base64,{}", "text/plain"),
        ("data:;base64,{}", "application/pdf"),
        ("data:application/octet-stream;base64,{}", "application/pdf"),
        ("{}", "application/pdf"),
        (" {}\n", "application/pdf"),
    ],
)
def test_data_is_read_in_every_usual_spelling(text: str, kind: str) -> None:
    blob = data_urls.parse_data(text.format(encode_base64(PDF)))

    assert (blob.data, blob.type) == (PDF, kind)


def test_base64_in_lines_is_read() -> None:
    content = bytes(range(256)) * 4

    assert data_urls.parse_data(base64.encodebytes(content).decode()).data == content


@check_each("size", [786_432, 786_433, 3_000_000])
def test_large_base64_is_decoded_in_pieces(size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"a" * (size % 256)
    pauses: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paced_iteration, "_pause", lambda: pauses.append(1))
        assert data_urls.parse_data(encode_base64(content)).data == content

    assert len(pauses) == -(-size // 786_432)


@check_each(
    ("text", "reason"),
    [
        ("data:image/png,abc", "not of the form"),
        ("data:image/png;base64", "not of the form"),
        ("data:png;base64,AAAA", "not of the form"),
        (f"data:image/png;name={'a' * 5000};base64,AAAA", "not of the form"),
        ("data:image/png;base64,A", "not valid base64"),
        ("data:image/png;base64,AAA", "not valid base64"),
        ("data:image/png;base64,AA==AA", "not valid base64"),
        ("A" * (2**20 - 2) + "==" + "AAAA", "not valid base64"),
        ("A" * 2**20 + "A", "not valid base64"),
        ("data:image/png;base64,AA!A", "not valid base64"),
        ("data:image/png;base64,ÄÖÜA", "not valid base64"),
        ("data:image/png;base64,", "no data"),
        ("", "no data"),
        ("https://example.com/a.pdf", "not valid base64"),
    ],
)
def test_invalid_data_url_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        data_urls.parse_data(text)


@check_each(
    ("content", "declared", "name", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n..", None, None, "image/png"),
        (b"\xff\xd8\xff\xe0", "application/octet-stream", None, "image/jpeg"),
        (b"GIF89a", None, "a.txt", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8", "binary/octet-stream", None, "image/webp"),
        (b"RIFF\0\0\0\0WAVE", None, None, "application/octet-stream"),
        (b"a,b", None, "a.csv", "text/csv"),
        (b"%PDF-", "image/png", None, "image/png"),
        (b"?", None, None, "application/octet-stream"),
    ],
)
def test_a_type_is_declared_or_detected_by_content_or_name(
    content: bytes, declared: str | None, name: str | None, kind: str
) -> None:
    assert data_urls.detect_type(content, declared, name) == kind


def test_a_blob_is_written_as_a_data_url_that_reads_back() -> None:
    url = data_urls.Blob(PDF, "application/pdf").data_url

    assert url == f"data:application/pdf;base64,{encode_base64(PDF)}"
    assert data_urls.parse_data(url) == (PDF, "application/pdf", None)


@check_each(
    ("url", "names"),
    [
        ("data:image/png;base64,", True),
        ("DATA:Image/PNG;base64,", True),
        ("data:image/jpeg;base64,", False),
        ("data:;base64,", False),
        ("AAAA", False),
        ("", False),
    ],
)
def test_declares_type_checks_the_declared_media_type(url: str, names: bool) -> None:
    assert data_urls.declares_type(url, "image/png") is names
