"""The page of captured exchanges."""

from __future__ import annotations

from flask.testing import FlaskClient


def test_page_says_how_to_switch_capturing_on(demo: FlaskClient) -> None:
    page = demo.get("/console/exchanges")

    assert page.status_code == 200
    assert "<code>FORWARDER_CAPTURE</code> is off" in page.text
