"""Files of several types for tests, made by the libraries that read them or by hand."""

from __future__ import annotations

import io

import docx
import pypdf
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject


def make_pdf(*texts: str, password: str | None = None) -> bytes:
    """Return a PDF file with a page for each text."""
    writer = pypdf.PdfWriter()
    for text in texts:
        page = writer.add_blank_page(400, 400)
        font = DictionaryObject(
            {
                NameObject("/Type"): NameObject("/Font"),
                NameObject("/Subtype"): NameObject("/Type1"),
                NameObject("/BaseFont"): NameObject("/Helvetica"),
            }
        )
        fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


def make_docx(*paragraphs: str, row: tuple[str, ...] = ()) -> bytes:
    """Return a Word document with paragraphs and a table of one row."""
    document = docx.Document()
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    if row:
        cells = document.add_table(rows=1, cols=len(row)).rows[0].cells
        for cell, text in zip(cells, row, strict=True):
            cell.text = text
    target = io.BytesIO()
    document.save(target)
    return target.getvalue()


HTML = """<!DOCTYPE html><html><head><title>Shop</title><style>p {}</style></head><body>
<h1>Refunds</h1><p>Within <b>thirty</b> days.</p><script>alert(1)</script><!-- hidden -->
<ul><li>one</li><li>two</li></ul></body></html>"""
