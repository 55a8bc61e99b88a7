"""Output of commands cannot control a terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

import forwarder.cli
from forwarder.cli import CommandError, print_line


def test_printed_lines_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("\x1b[2Jgone\tand\nmore")
    print_line("\x1b[2Jgone", err=True)

    assert capsys.readouterr() == ("\\x1b[2Jgone\tand\nmore\n", "\\x1b[2Jgone\n")


def test_errors_are_escaped_and_have_one_line() -> None:
    assert CommandError("there is\nno \x1b[2Jmodel").message == "there is no \\x1b[2Jmodel"


def test_all_commands_escape_their_errors() -> None:
    folder = Path(forwarder.cli.__file__).parent
    raw = {path.name for path in folder.glob("*.py") if "raise click.ClickE" in path.read_text()}

    assert raw == set()
