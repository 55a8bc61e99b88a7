"""Conversion of images between base64 and data URLs."""

from __future__ import annotations

import time
from typing import Any

from forwarder.translation import images
from tests.helpers.check_cases import check_each

PNG = "iVBORw0KGgo="


@check_each(
    ("data", "image_format", "url"),
    [
        (PNG, None, f"data:image/png;base64,{PNG}"),
        (PNG, "webp", f"data:image/webp;base64,{PNG}"),
        (PNG, 'x",y', f"data:image/png;base64,{PNG}"),
        (PNG, 7, f"data:image/png;base64,{PNG}"),
        ("/9j/4AAQ", "jpg", "data:image/jpeg;base64,/9j/4AAQ"),
        ("/9j/4AAQ", "", "data:image/jpeg;base64,/9j/4AAQ"),
        ("R0lGODlh", None, "data:image/gif;base64,R0lGODlh"),
        ("UklGRgA=", None, "data:image/webp;base64,UklGRgA="),
        ("PHN2Zz4=", None, "data:image/svg+xml;base64,PHN2Zz4="),
        ("AAAA", None, "data:image/png;base64,AAAA"),
        ("AAAA", "avif", "data:image/avif;base64,AAAA"),
        ("R0lGODlh", "odd", "data:image/gif;base64,R0lGODlh"),
        ("https://e.test/a.png", "png", "https://e.test/a.png"),
        ("DATA:image/png;base64,AAAA", "gif", "DATA:image/png;base64,AAAA"),
    ],
)
def test_make_data_url_from_base64(data: str, image_format: Any, url: str) -> None:
    assert images.make_data_url(data, image_format) == url


@check_each(
    ("url", "expected"),
    [
        (f"data:image/png;base64,{PNG}", (PNG, "png")),
        ("Data:Image/JPG;base64,AAAA", ("AAAA", "jpeg")),
        ("data:image/svg+xml;charset=utf-8;base64,AAAA", ("AAAA", "svg")),
        ("data:image/avif;base64,AAAA", ("AAAA", "avif")),
        ("data:;base64,/9j/AAAA", ("/9j/AAAA", "jpeg")),
        ("data:application/octet-stream;base64,UklGRgA=", ("UklGRgA=", "webp")),
        ("data:image/png;base64,", ("", "png")),
        ("https://e.test/a.png", None),
        (f"data:image/{'a' * 5000};base64,AAAA", None),
        (PNG, None),
    ],
)
def test_parse_data_url_to_base64(url: str, expected: Any) -> None:
    assert images.parse_data_url(url) == expected


def test_long_other_url_is_rejected_quickly() -> None:
    started_at = time.process_time()

    assert images.parse_data_url("data:image/" + "a" * 50_000) is None

    assert time.process_time() - started_at < 1
