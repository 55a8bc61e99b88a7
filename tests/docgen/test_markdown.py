"""Markdown tables and code."""

from __future__ import annotations

from tools.docgen.markdown import format_code, render_table


def test_table_has_a_head_and_rows() -> None:
    assert render_table(["a", "b"], [["1", "2"], ["3", "4"]]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| 1 | 2 |",
        "| 3 | 4 |",
    ]


def test_cell_text_is_escaped() -> None:
    assert render_table(["a"], [["x|y\nz"]]).splitlines()[2] == "| x\\|y z |"


def test_names_are_formatted_as_code() -> None:
    assert format_code(["a", "b_c"]) == "`a`, `b_c`"
    assert format_code([]) == ""
