"""``forwarder replay``: sends a captured request again and compares the answers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import orjson

from forwarder.cli.context import with_bridge
from forwarder.config.settings import Settings
from forwarder.core.errors import ForwarderError
from forwarder.core.terminal_escapes import echo, escape_controls
from forwarder.core.types import Json
from forwarder.observability.capture.observer import MEMORY, OFF, shelf_for
from forwarder.observability.capture.playback import Playback, not_fetched
from forwarder.observability.capture.replay import (
    Came,
    asking,
    came,
    came_now,
    differences,
    notes,
    recorded,
    rehearsed,
)
from forwarder.pipeline.gateway import Bridge

Make = Callable[[Settings], Any]
"""Makes an application."""


class _Trouble(click.ClickException):
    """1 says that answers differ."""

    exit_code = 2


def make_replay(make: Make) -> click.Command:
    """The command; ``make`` is ``create_app``, which imports this module."""

    @click.command("replay")
    @click.argument("name", metavar="ID|FILE")
    @click.option(
        "--upstream",
        "which",
        type=click.Choice(["today", "captured"]),
        default="today",
        help="Ask today's upstream, or hear again what the captured one said, which asks nobody.",
    )
    @click.option("--key", envvar="REPLAY_KEY", help="The client's key: no record has it.")
    @with_bridge
    def command(bridge: Bridge, name: str, which: str, key: str | None) -> None:
        """Send a captured request again, and show how its answer differs from that time's.

        ID is an exchange's or its request's, FILE what GET /forwarder/exchanges/ID gave.  Exits
        with 1 when the answers differ.  Nothing is stored.
        """
        settings = bridge.settings
        record = _record(name, settings)
        try:
            for note in notes(record):
                echo(f"note: {note}", err=True)
            now = _replayed(record, which, key, settings, make)
        except ForwarderError as error:
            raise _Trouble(escape_controls(error.message)) from error
        echo("\n".join(now.lines()))
        found = differences(came(record), now)
        echo("\n".join(found or ["The same as was captured."]), err=True)
        raise SystemExit(1 if found else 0)

    return command


def _replayed(record: Json, which: str, key: str | None, settings: Settings, make: Make) -> Came:
    """What comes today; FORWARDER_API_KEYS has a key for a client who had any of them."""
    asked = asking(record, key or next(iter(settings.api_keys), None))
    if which == "today":
        app = make(rehearsed(settings))
        app.extensions["forwarder"].rehearse()
    else:
        app = make(recorded(settings, record))
        playback = Playback(record.get("upstream") or ())
        app.extensions["forwarder"].rehearse(playback, not_fetched)
    with app.test_client().post(asked.path, data=asked.body, headers=asked.headers) as answer:
        return came_now(answer.status_code, answer.get_data(), settings)


def _record(name: str, settings: Settings) -> Json:
    """The record in a file, or where captured ones are."""
    file = Path(name)
    if file.is_file():
        said: bytes | None = file.read_bytes()
    elif settings.capture in (OFF, MEMORY):
        raise _Trouble(
            f"There is no file '{name}', and FORWARDER_CAPTURE={settings.capture} leaves nothing "
            "that another process could read: save what GET /forwarder/exchanges/ID gives."
        )
    else:
        said = shelf_for(settings).find(name)
    if said is None:
        raise _Trouble(f"There is no exchange '{name}' in {settings.capture}.")
    try:
        return dict(orjson.loads(said))
    except (ValueError, TypeError):
        raise _Trouble(f"'{name}' is no record of an exchange.") from None
