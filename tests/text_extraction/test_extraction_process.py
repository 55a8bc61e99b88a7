"""The process that extracts texts: its results, and its end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from forwarder.text_extraction import extraction_process
from forwarder.text_extraction.extract import MAX_LINKS, MAX_PAGE_CHARACTERS
from forwarder.text_extraction.extraction_process import (
    ExtractionError,
    extract_file,
    extract_page,
    extract_pdf_page,
)
from tests.helpers.check_cases import check_each
from tests.text_extraction.documents import make_docx, make_pdf


def extract(data: bytes, filename: str, is_cancelled: bool = False) -> str:
    return extract_file([data[:3], data[3:]], filename, lambda: is_cancelled)


def test_text_comes_from_a_process() -> None:
    assert extract("Grüße\n".encode(), "a.txt") == "Grüße"
    assert extract(make_pdf("Hello"), "a.pdf") == "Hello"
    assert extract(make_docx("Hello"), "a.docx") == "Hello"


def test_text_of_a_page_has_no_scripts() -> None:
    text, script = "The cat is a small mammal that sleeps all day.", "<script>alert(1)</script>"
    html = f"<html><body><article><p>{text}</p>{script}</article></body></html>"
    assert extract_page(html.encode(), "https://example.org/") == (text, [])


def test_pdf_page_is_cut_in_the_process() -> None:
    assert extract_pdf_page(make_pdf("Hello")) == "Hello"
    text = extract_pdf_page(make_pdf(*["x" * 20_000] * 60, "never read"))
    assert len(text) == MAX_PAGE_CHARACTERS


def test_links_of_a_page_are_absolute_and_different() -> None:
    urls = [
        "/a",
        "b#top",
        "b",
        "https://other.example/",
        "javascript:x",
        "mailto:x",
        "http://[",
        "#c",
    ]
    links = "".join(f"<a href='{url}'>to  <b>{url}</b></a>" for url in urls)
    html = f"<html><body><p>The cat is a small mammal that sleeps all day.</p>{links}</body></html>"
    assert extract_page(html.encode(), "https://example.org/p/").links == [
        ("to /a", "https://example.org/a"),
        ("to b#top", "https://example.org/p/b"),
        ("to https://other.example/", "https://other.example/"),
    ]
    many = "".join(f"<a href='/{number}'>{number}</a>" for number in range(200))
    html = f"<html><body><p>The cat is a small mammal that sleeps all day.</p>{many}</body></html>"
    assert len(extract_page(html.encode(), "https://example.org/").links) == MAX_LINKS


def test_page_without_text_is_an_invalid_file() -> None:
    with pytest.raises(ExtractionError, match="The page has no readable text"):
        extract_page(b"<html></html>", "https://example.org/")


@check_each(
    ("data", "name", "code"),
    [
        (b"", "a.txt", "invalid_file"),
        (b"%PDF-1.7\nbroken", "a.pdf", "invalid_file"),
        (b"PK\x03\x04broken", "a.docx", "invalid_file"),
        (b"\x89PNG\0", "a.png", "unsupported_file"),
    ],
)
def test_reason_comes_from_the_process(data: bytes, name: str, code: str) -> None:
    with pytest.raises(ExtractionError) as caught:
        extract(data, name)
    assert caught.value.code == code
    assert caught.value.message.startswith("The ")


def write_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(text)
    monkeypatch.setattr(extraction_process.extract, "__file__", str(program))


@pytest.mark.parametrize(
    "program",
    [
        "",
        "import os; os.kill(os.getpid(), 9)",
        "print('ok 5'); print('abc')",
        "print('hello')",
    ],
)
def test_crashed_process_is_an_invalid_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    write_program(tmp_path, monkeypatch, program)
    with pytest.raises(ExtractionError, match="limits"):
        extract(b"x", "a.txt")


@pytest.mark.parametrize("cause", ["timeout", "cancelled"])
def test_process_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    pid_file = tmp_path / "pid"
    write_program(
        tmp_path,
        monkeypatch,
        f"import os; open({str(pid_file)!r}, 'w').write(str(os.getpid()))\n"
        "import time; time.sleep(60)",
    )
    started = time.monotonic()
    if cause == "timeout":
        monkeypatch.setattr(extraction_process, "FILE_SECONDS", 0.4)
    with pytest.raises(ExtractionError, match="limits"):
        extract_file([b"x"], "a.txt", lambda: cause == "cancelled" and pid_file.exists())

    assert time.monotonic() < started + 30
    if pid_file.exists() and (pid := pid_file.read_text()):
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_process_has_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_API_KEY", "sk-secret")
    write_program(
        tmp_path,
        monkeypatch,
        "import os; names = ','.join(sorted(os.environ)); print('ok', len(names), flush=True)\n"
        "os.write(1, names.encode())",
    )
    assert "CHAT_API_KEY" not in extract(b"x", "a.txt")


def test_process_limits_its_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(extraction_process.extract.__file__).read_text()
    program = source.replace("text, status = KINDS", "bytearray(2 << 30); text, status = KINDS")
    assert program != source
    write_program(tmp_path, monkeypatch, program)
    with pytest.raises(ExtractionError, match="too much memory"):
        extract(b"x", "a.txt")
