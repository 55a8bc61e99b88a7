"""Which exchanges are captured, and where they go."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from forwarder.config.settings import Settings, UpstreamSettings, upstream_with
from forwarder.context.recorder import Asked
from forwarder.context.request_context import Exchange
from forwarder.core.translation_context import Ledger
from forwarder.observability.capture.observer import Capture, capture_for, shelf_for
from forwarder.observability.capture.stores import FileShelf, Limits, MemoryShelf

ASKED = Asked("POST", "/v1/responses", [], [])


def settings(**more: str) -> Settings:
    return Settings.from_env({f"FORWARDER_CAPTURE{k}": v for k, v in more.items()})


def capturing(**more: str) -> Capture:
    return Capture(settings(**more), MemoryShelf(Limits(10, 100)))


def ended(capture: Capture, route: str, body: bytes | None, **more: Any) -> list[dict[str, Any]]:
    exchange = Exchange("req_1", route, Ledger(), observers=[capture], **more)
    exchange.tape = capture.tape(exchange, ASKED)
    if exchange.tape and body:
        exchange.tape.heard(body)
    exchange.close()
    assert exchange.tape is None
    return capture.shelf.newest(10)


def test_nothing_captures_unless_it_is_told_to() -> None:
    assert capture_for(settings()) is None


def test_records_are_where_the_settings_say(tmp_path: Path) -> None:
    assert isinstance(shelf_for(settings(_COUNT="5", **{"": "memory"})), MemoryShelf)
    assert isinstance(shelf_for(settings(**{"": str(tmp_path)})), FileShelf)


def test_an_exchange_that_is_over_is_kept() -> None:
    capture = capturing(_REDACT="user")

    (summary,) = ended(capture, "responses", b'{"user":"somebody"}')

    found = json.loads(capture.shelf.find(summary["id"]) or b"")
    assert found["client"]["request"]["body"] == {"user": "***"}


@pytest.mark.parametrize(
    ("route", "body", "status", "kept"),
    [
        ("responses", b"{}", 200, True),
        ("chat", None, 429, True),
        ("compact", b"{}", 200, True),
        ("background", b"{}", 200, True),
        ("tags", None, 200, False),  # asked nothing
        ("stored", b"{}", 200, False),
        ("files", None, 404, False),
    ],
)
def test_exchanges_in_which_a_model_is_asked_are_kept(
    route: str, body: bytes | None, status: int, kept: bool
) -> None:
    assert bool(ended(capturing(), route, body, status=status)) is kept


def test_no_key_of_what_is_registered_by_then_is_kept() -> None:
    there: list[UpstreamSettings] = []
    shelf = MemoryShelf(Limits(10, 100))
    capture = Capture(settings(), shelf, lambda: there)
    there.append(upstream_with("mine:latest", base_url="https://a/v1", api_key="sk-0123456789"))

    (summary,) = ended(capture, "chat", b'{"messages":[{"content":"is sk-0123456789 right?"}]}')

    assert b"is *** right?" in (shelf.find(summary["id"]) or b"")


def test_an_exchange_without_a_tape_leaves_nothing() -> None:
    capture = capturing()
    Exchange("req_1", "responses", Ledger(), observers=[capture]).close()

    assert capture.shelf.newest(10) == []


def test_what_cannot_be_kept_harms_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    shelf = FileShelf(tmp_path / "file" / "dir", Limits(1, 1))
    exchange = Exchange("req_1", "chat", Ledger(), observers=[Capture(settings(), shelf)])
    exchange.tape = Capture(settings(), shelf).tape(exchange, ASKED)
    assert exchange.tape is not None
    exchange.tape.heard(b"{}")

    exchange.close()

    assert not shelf.newest(1)


def test_what_is_too_old_goes_while_nobody_asks() -> None:
    gone = []

    class Told(MemoryShelf):
        def prune(self) -> None:
            gone.append(True)
            if len(gone) > 2:
                threading.Event().wait()
            raise RuntimeError("told")

    capture = Capture(settings(_AGE="0.02"), Told(Limits(1, 0.02)))
    capture.start()

    deadline = time.monotonic() + 5
    while len(gone) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(gone) >= 2, "a failure ends it"
