"""Extract the text of a document, as a separate program that cannot harm the worker.

It runs as ``python -I extract.py KIND NAME`` and reads the content from standard input. It writes a
line with a status and a number of bytes, followed by the text or the reason of the failure. `KINDS`
lists the kinds of documents. The program imports nothing from the forwarder, gets an empty
environment, and limits its own memory and time.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import zipfile
from collections.abc import Callable, Iterator
from urllib.parse import urljoin

OK, INVALID, UNSUPPORTED = "ok", "invalid_file", "unsupported_file"

FILE, PAGE, PDF_PAGE = "file", "page", "PDF file"
"""Kinds of documents: an uploaded file, and web pages in HTML and PDF. NAME is the name of the file
or the URL of the HTML page."""

MEMORY_BYTES = 1 << 30
CPU_SECONDS = {FILE: 60, PAGE: 20, PDF_PAGE: 20}
NICENESS = 10
"""Niceness of the process, so that other processes get the CPU first."""

MAX_CHARACTERS = 20_000_000
"""About five million tokens of English, which is also OpenAI's limit."""

MAX_PAGE_CHARACTERS = 1_000_000
"""Characters of a web page's text that are kept; the rest is cut."""

MAX_UNPACKED_BYTES = 200 << 20
"""Bytes of an unpacked office document."""

DETECTED_BYTES = 1024

MAX_LINKS = 100
MAX_LINK_TEXT = 100
"""Links of a web page, and characters of the text of each."""

_SKIPPED_TAGS = frozenset({"script", "style", "noscript", "template", "head"})
_BLOCK_TAGS = frozenset(
    {
        *("address", "article", "aside", "blockquote", "br", "dd", "div", "dl", "dt", "fieldset"),
        *("figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header"),
        *("hr", "li", "main", "nav", "ol", "p", "pre", "section", "table", "td", "th", "tr", "ul"),
    }
)


class InvalidFile(Exception):
    """The file is broken, or has no text."""


class UnsupportedFile(Exception):
    """Files of this type cannot be read."""


def extract_text(data: bytes, filename: str) -> str:
    """Return the text of a file. Raises InvalidFile or UnsupportedFile."""
    if not data.strip():
        raise InvalidFile("The file is empty.")
    return clean_text("".join(limit_pieces(choose_extractor(data, filename)(data))))


def clean_text(text: str) -> str:
    """Return the text without NUL and surrounding space. Raises InvalidFile if nothing is left."""
    # Neither database stores NUL in texts.
    text = text.replace("\0", "").strip()
    if not text:
        raise InvalidFile("The file contains no text. Scanned pages are not read.")
    return text


def choose_extractor(data: bytes, filename: str) -> Callable[[bytes], Iterator[str]]:
    """Return the extractor for the content. The name decides only if the content is ambiguous."""
    head, suffix = data[:DETECTED_BYTES], os.path.splitext(filename.lower())[1]
    if b"%PDF-" in head:
        return extract_pdf
    if head.startswith(b"PK\x03\x04"):
        if is_word_document(data):
            return extract_docx
        raise UnsupportedFile("Archives and office files other than .docx cannot be read.")
    if suffix == ".pdf":
        raise InvalidFile("The file is not a PDF file.")
    if suffix == ".docx":
        raise InvalidFile("The file is not a Word document.")
    if suffix in (".html", ".htm", ".xhtml") or b"<!doctype html" in head.lower():
        return extract_html
    return extract_plain


def limit_pieces(pieces: Iterator[str]) -> Iterator[str]:
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > MAX_CHARACTERS:
            raise InvalidFile(f"The file has more than {MAX_CHARACTERS} characters of text.")
        yield piece


def extract_page(data: bytes, url: str) -> str:
    """Return the main text of a web page, without menus and footers, and its links, as JSON.

    The form is ``{"text": …, "links": [[text, URL], …]}``. Raises InvalidFile.
    """
    from trafilatura import bare_extraction

    document = bare_extraction(data, url=url, favor_recall=True, include_links=False)
    text = getattr(document, "text", None)
    if not text:
        raise InvalidFile("The page has no readable text.")
    text = str(text)[:MAX_PAGE_CHARACTERS]
    return json.dumps({"text": text, "links": list(find_links(data, url))})


def extract_pdf_page(data: bytes, url: str) -> str:
    """Return the beginning of the text of a PDF file. Raises InvalidFile."""
    pieces: list[str] = []
    length = 0
    for piece in extract_pdf(data):
        pieces.append(piece)
        length += len(piece)
        if length >= MAX_PAGE_CHARACTERS:
            break
    return clean_text("".join(pieces)[:MAX_PAGE_CHARACTERS])


def find_links(data: bytes, url: str) -> Iterator[tuple[str, str]]:
    """Yield the texts and absolute URLs of the first different links of a page."""
    import lxml.html

    found: set[str] = set()
    for element in lxml.html.document_fromstring(data).iter("a"):
        try:
            target = urljoin(url, str(element.get("href") or "")).partition("#")[0]
        except ValueError:
            continue
        if target.startswith(("http://", "https://")) and target != url and target not in found:
            found.add(target)
            text = " ".join(element.text_content().split())
            yield text[:MAX_LINK_TEXT], target
        if len(found) == MAX_LINKS:
            return


def extract_pdf(data: bytes) -> Iterator[str]:
    import logging

    import pypdf
    from pypdf.errors import PyPdfError

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise InvalidFile("The PDF file is protected by a password.")
        for page in reader.pages:
            yield page.extract_text()
            yield "\n\n"
    except PyPdfError as error:
        raise InvalidFile(f"The PDF file cannot be read: {str(error)[:200]}") from error


def is_word_document(data: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise InvalidFile("The document is too large when it is unpacked.")
            return "word/document.xml" in archive.namelist()
    except zipfile.BadZipFile as error:
        raise InvalidFile("The archive is broken.") from error


def extract_docx(data: bytes) -> Iterator[str]:
    import docx
    from docx.table import Table

    document = docx.Document(io.BytesIO(data))
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            for row in block.rows:
                yield " | ".join(cell.text for cell in row.cells)
                yield "\n"
        else:
            yield block.text
        yield "\n"


def extract_html(data: bytes) -> Iterator[str]:
    import lxml.html
    from lxml import etree

    try:
        tree = lxml.html.document_fromstring(data)
    except (etree.LxmlError, ValueError) as error:
        raise InvalidFile("The HTML file cannot be read.") from error
    for event, element in etree.iterwalk(tree, events=("start", "end", "comment", "pi")):
        if event == "start":
            is_skipped = element.tag in _SKIPPED_TAGS
            if element.text and not is_skipped:
                yield element.text
        else:
            if element.tag in _BLOCK_TAGS:
                yield "\n"
            parent = element.getparent()
            if element.tail and parent is not None and parent.tag not in _SKIPPED_TAGS:
                yield element.tail


def extract_plain(data: bytes) -> Iterator[str]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\0" in data[:DETECTED_BYTES]:
        raise UnsupportedFile("The file is not a text, PDF, HTML or Word (.docx) file.")
    else:
        encoding = "utf-8-sig"
    try:
        yield data.decode(encoding)
    except UnicodeDecodeError as error:
        controls = sum(byte < 9 or 13 < byte < 32 for byte in data[:DETECTED_BYTES])
        if encoding == "utf-16" or controls > DETECTED_BYTES // 100:
            raise UnsupportedFile(
                "The file is not a text, PDF, HTML or Word (.docx) file."
            ) from error
        yield data.decode("cp1252", "replace")  # the encoding of older Windows programs


KINDS: dict[str, Callable[[bytes, str], str]] = {
    FILE: extract_text,
    PAGE: extract_page,
    PDF_PAGE: extract_pdf_page,
}
"""Kind of a document -> the function that returns its text."""


def limit_resources(kind: str) -> None:
    seconds = CPU_SECONDS[kind]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICENESS)


def main() -> None:
    """Read a document from standard input, and write its text or the reason of failure."""
    kind, name = sys.argv[1:]
    limit_resources(kind)
    try:
        text, status = KINDS[kind](sys.stdin.buffer.read(), name), OK
    except UnsupportedFile as error:
        text, status = str(error), UNSUPPORTED
    except InvalidFile as error:
        text, status = str(error), INVALID
    except MemoryError:
        text, status = f"The {kind} needs too much memory.", INVALID
    except Exception as error:  # parsers raise errors of any class for a broken document
        text, status = f"The {kind} cannot be read ({type(error).__name__}).", INVALID
    content = text.encode("utf-8", "replace")
    sys.stdout.buffer.write(f"{status} {len(content)}\n".encode() + content)


if __name__ == "__main__":
    main()
