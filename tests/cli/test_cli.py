"""Output of commands cannot control a terminal."""

from __future__ import annotations

import pytest

from forwarder.cli import print_line


def test_printed_lines_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_line("\x1b[2Jgone\tand\nmore")
    print_line("\x1b[2Jgone", err=True)

    assert capsys.readouterr() == ("\\x1b[2Jgone\tand\nmore\n", "\\x1b[2Jgone\n")
