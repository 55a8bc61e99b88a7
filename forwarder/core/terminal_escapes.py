"""Output of commands, which may quote what a remote said."""

from __future__ import annotations

import re

import click

_CONTROL_CHARACTERS = re.compile(
    r"[^\n\t\x20-\x7e\xa0-\U0010ffff]|[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
"""Characters that a terminal acts on, and those that change the direction of a text."""


def escape_control_characters(text: str) -> str:
    """A text as a terminal shows it: what it would act on is spelled out."""
    return _CONTROL_CHARACTERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def print_line(text: str, err: bool = False) -> None:
    """Print a line."""
    click.echo(escape_control_characters(text), err=err)
