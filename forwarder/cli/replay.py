"""``forwarder replay``: resends a captured request and compares the responses."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import orjson

from forwarder.cli import CommandError, print_line
from forwarder.cli.context import with_settings
from forwarder.config.settings import Settings
from forwarder.core.errors import ForwarderError
from forwarder.core.types import Json
from forwarder.observability.capture import (
    CAPTURE_IN_MEMORY,
    CAPTURE_OFF,
    make_capture_store,
)
from forwarder.observability.capture.replay import (
    diff_answers,
    list_caveats,
    read_recorded_answer,
)
from forwarder.server.replay_application import AnswerRequest, replay_offline, replay_to_upstream

KEY_VARIABLE = "REPLAY_KEY"


class ReplayError(CommandError):
    """Exits with 2, since 1 means that the responses differ."""

    exit_code = 2


def warn_of_visible_key(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Warn of a key on the command line, which earlier versions documented."""
    if context.get_parameter_source(option.name or "") is click.core.ParameterSource.COMMANDLINE:
        print_line(
            "warning: other users can see a key on the command line, and the next version refuses "
            f"--key: set {KEY_VARIABLE} or use --key-stdin",
            err=True,
        )
    return value


def make_replay_command(answer: AnswerRequest) -> click.Command:
    """Create the command; ``answer`` is `app.answer_replay`, whose module imports this one."""

    @click.command("replay")
    @click.argument("name", metavar="ID|FILE")
    @click.option(
        "--upstream",
        "upstream",
        type=click.Choice(["today", "captured"]),
        default="today",
        help="Send to the current upstream, or replay the captured upstream responses offline.",
    )
    @click.option("--key-stdin", is_flag=True, help="Read the client's key from standard input.")
    @click.option("--key", envvar=KEY_VARIABLE, hidden=True, callback=warn_of_visible_key)
    @with_settings
    def command(
        settings: Settings, name: str, upstream: str, key: str | None, key_stdin: bool
    ) -> None:
        """Resend a captured request and compare the responses.

        ID is the id of a capture or of its request, FILE the output of GET
        /forwarder/exchanges/ID. Exits with 1 if the responses differ. Stores nothing.

        Captures do not contain the client's key. It is read from the variable REPLAY_KEY or from
        standard input; by default, the first of FORWARDER_API_KEYS is used.
        """
        record = load_record(name, settings)
        if key_stdin:
            key = sys.stdin.readline().strip() or None
        try:
            for note in list_caveats(record):
                print_line(f"note: {note}", err=True)
            replay = replay_to_upstream if upstream == "today" else replay_offline
            response = replay(record, key, settings, answer)
        except ForwarderError as error:
            raise ReplayError(error.message) from error
        print_line("\n".join(response.format_lines()))
        differences = diff_answers(read_recorded_answer(record), response)
        print_line("\n".join(differences or ["The response equals the captured one."]), err=True)
        raise SystemExit(1 if differences else 0)

    return command


def load_record(name: str, settings: Settings) -> Json:
    """Load a capture from a file or from the capture store."""
    file = Path(name)
    if file.is_file():
        data: bytes | None = file.read_bytes()
    elif settings.capture in (CAPTURE_OFF, CAPTURE_IN_MEMORY):
        raise ReplayError(
            f"There is no file '{name}', and other processes cannot read captures with "
            f"FORWARDER_CAPTURE={settings.capture}. Save the output of GET /forwarder/exchanges/ID."
        )
    else:
        data = make_capture_store(settings).find(name)
    if data is None:
        raise ReplayError(f"There is no exchange '{name}' in {settings.capture}.")
    try:
        return dict(orjson.loads(data))
    except (ValueError, TypeError):
        raise ReplayError(f"'{name}' is not a captured exchange.") from None
