"""Texts of files of all types, and of broken ones."""

from __future__ import annotations

import io
import zipfile

import pytest

from forwarder.text_extraction import extract
from forwarder.text_extraction.extract import (
    InvalidFile,
    UnsupportedFile,
    extract_pdf_page,
    extract_text,
)
from tests.helpers.check_cases import check_each
from tests.text_extraction.documents import HTML, make_docx, make_pdf


def test_pdf_pages_are_read() -> None:
    text = extract_text(make_pdf("First page", "Second page"), "a.pdf")

    assert [line for line in text.splitlines() if line] == ["First page", "Second page"]


def test_pdf_page_is_read_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "MAX_PAGE_CHARACTERS", 5)
    assert extract_pdf_page(make_pdf("First page", "Second page"), "") == "First"
    with pytest.raises(InvalidFile, match="no text"):
        extract_pdf_page(make_pdf(""), "")


def test_word_document_is_read_with_its_tables() -> None:
    text = extract_text(make_docx("One", "Two", row=("a", "b")), "a.docx")

    assert text == "One\nTwo\na | b"


def test_html_is_read_without_scripts_and_styles() -> None:
    text = extract_text(HTML.encode(), "a.html")

    assert [line.strip() for line in text.splitlines() if line.strip()] == [
        "Shop",
        "Refunds",
        "Within thirty days.",
        "one",
        "two",
    ]


def name_case(value: object) -> str | None:
    """Return a fixed id for binary contents, because an archive contains its creation time."""
    return "data" if isinstance(value, bytes) else None


@check_each("name", ["a", "a.txt", "a.html", "a.pdf.html"])
def test_content_decides_the_type(name: str) -> None:
    assert extract_text(make_pdf("Hello"), name) == "Hello"
    assert extract_text(make_docx("Hello"), name) == "Hello"


@check_each(
    ("data", "text"),
    [
        (b"def f():\n    return 1\n", "def f():\n    return 1"),
        ("\ufeffGrüße".encode(), "Grüße"),
        ("Grüße".encode("utf-16"), "Grüße"),
        ("Grüße".encode("cp1252"), "Grüße"),
        (b'{"a": 1}', '{"a": 1}'),
        (b"x" * 2000 + b"\0y", "x" * 2000 + "y"),
    ],
)
def test_texts_are_decoded(data: bytes, text: str) -> None:
    assert extract_text(data, "a.py") == text


def make_zip(name: str, content: bytes = b"x") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return target.getvalue()


@check_each(
    ("data", "name"),
    [
        (make_zip("ppt/presentation.xml"), "a.pptx"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a.png"),
        (bytes(range(1, 256)) * 8, "a.bin"),
    ],
    ids=name_case,
)
def test_other_types_are_unsupported(data: bytes, name: str) -> None:
    with pytest.raises(UnsupportedFile):
        extract_text(data, name)


@check_each(
    ("data", "name", "reason"),
    [
        (b"", "a.txt", "empty"),
        (b" \n", "a.txt", "empty"),
        (b"hello", "a.pdf", "not a PDF"),
        (b"hello", "a.docx", "not a Word"),
        (b"%PDF-1.7\nbroken", "a.pdf", "PDF"),
        (make_pdf(), "a.pdf", "no text"),
        (make_pdf(""), "a.pdf", "no text"),
        (make_pdf("x", password="secret"), "a.pdf", "password"),
        (make_zip("word/document.xml")[:40], "a.docx", "broken"),
        (b"<!doctype html><p></p>", "a.html", "no text"),
    ],
    ids=name_case,
)
def test_broken_files_are_invalid(data: bytes, name: str, reason: str) -> None:
    with pytest.raises(InvalidFile, match=reason):
        extract_text(data, name)


def test_document_that_grows_when_unpacked_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(InvalidFile, match="too large"):
        extract_text(make_zip("word/document.xml", b" " * 1001), "a.docx")


def test_too_much_text_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "MAX_CHARACTERS", 10)
    assert extract_text(b"x" * 10, "a.txt") == "x" * 10
    with pytest.raises(InvalidFile, match="10 characters"):
        extract_text(b"x" * 11, "a.txt")
