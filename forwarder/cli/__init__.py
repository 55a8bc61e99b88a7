"""The ``forwarder`` command. ``flask --app wsgi`` also offers its subcommands.

`main.py` has the command itself, and each other module a group of subcommands. This module has what
all of them use: output that may quote text of remote servers.
"""

from __future__ import annotations

import re

import click

_CONTROL_CHARACTERS = re.compile(
    r"[^\n\t\x20-\x7e\xa0-\U0010ffff]|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
"""Control characters of terminals, and characters that change the direction of text."""


def escape_control_characters(text: str) -> str:
    """Escape the characters of ``text`` that would control a terminal."""
    return _CONTROL_CHARACTERS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def print_line(text: str, err: bool = False) -> None:
    """Print a line with its control characters escaped."""
    click.echo(escape_control_characters(text), err=err)
