"""Data URLs and detection of media types."""

from __future__ import annotations

import base64
import binascii
import io
import mimetypes
import re
from typing import NamedTuple

from forwarder.core.base64_text import MAX_HEAD_LENGTH, remove_blanks
from forwarder.core.paced_iteration import LARGE_BYTES, give_way

UNKNOWN = "application/octet-stream"

_HEAD = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[^;,]*)*);base64,", re.IGNORECASE)
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
)


class Blob(NamedTuple):
    """Bytes, their media type and, if known, their file name."""

    data: bytes
    type: str
    name: str | None = None

    @property
    def data_url(self) -> str:
        """The blob as a base64 data URL."""
        return f"data:{self.type};base64,{base64.b64encode(self.data).decode()}"


def is_data_url(text: str) -> bool:
    return text[:5].lower() == "data:"


def declares_type(url: str, kind: str) -> bool:
    """Return whether ``url`` is a data URL that declares the media type ``kind``."""
    head = _HEAD.match(url, 0, MAX_HEAD_LENGTH)
    return bool(head and head[1] and head[1].lower() == kind)


def parse_data(text: str, name: str | None = None) -> Blob:
    """Parse a data URL or bare base64.  Raises ValueError with a phrase such as "is not ..."."""
    head = _HEAD.match(text, 0, MAX_HEAD_LENGTH)
    if head is None and is_data_url(text):
        raise ValueError("is not of the form data:<type>;base64,<data>")
    data = decode_base64(text[head.end() :] if head else text)
    declared = head[1] if head else None
    return Blob(data, detect_type(data, declared, name), name)


def detect_type(data: bytes, declared: str | None, name: str | None) -> str:
    """Return the declared media type, or the detected one if the declared one is generic."""
    if declared and declared.lower() not in (UNKNOWN, "binary/octet-stream"):
        return declared.lower()
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    by_content = next((kind for sign, kind in _SIGNATURES if data.startswith(sign)), None)
    return by_content or mimetypes.guess_type(name or "")[0] or UNKNOWN


def decode_base64(text: str) -> bytes:
    """Decode base64; other requests run between the steps on a large text. Raises ValueError."""
    bare = remove_blanks(text)
    padding = bare.find("=")
    data = io.BytesIO()
    try:
        if 0 <= padding < len(bare) - 2:
            raise ValueError
        for at in range(0, len(bare), LARGE_BYTES):  # pieces of four characters each
            give_way(len(bare))
            data.write(binascii.a2b_base64(bare[at : at + LARGE_BYTES], strict_mode=True))
    except (binascii.Error, ValueError):
        raise ValueError("is not valid base64") from None
    if not data.tell():
        raise ValueError("holds no data")
    return data.getvalue()
