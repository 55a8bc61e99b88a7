"""Everything that has a disposition is on the page, once."""

from __future__ import annotations

import pytest

from forwarder.protocols.items import ITEM_TABLES, DispositionTable
from forwarder.protocols.ollama_parameters import EMBEDDING_TABLES, OLLAMA_TABLES
from forwarder.protocols.parameters import PARAMETER_TABLES
from tools.docgen.parameters import (
    DISPOSITIONS,
    render_ollama_summary,
    render_summary,
    render_tables,
)

COLUMNS = {"responses": 1, "chat": 2}


def read_summary(text: str, column: int) -> dict[str, str]:
    """Parameter -> disposition."""
    found = {}
    for line in text.splitlines()[2:]:
        cells = line.strip("| ").split(" | ")
        for name in cells[column].split(", "):
            found[name.strip("`")] = cells[0].split("*")[1]
    found.pop("–", None)
    return found


@pytest.mark.parametrize("client", PARAMETER_TABLES)
def test_summary_has_every_parameter_with_its_disposition(client: str) -> None:
    found = read_summary(render_summary(), COLUMNS[client])

    assert found == {name: row.kind for name, row in PARAMETER_TABLES[client].items()}


def test_ollama_summary_has_every_parameter_with_its_disposition() -> None:
    found = read_summary(render_ollama_summary(), 1)

    assert found == {n: row.kind for table in OLLAMA_TABLES.values() for n, row in table.items()}


def lines_of(rows: DispositionTable) -> list[str]:
    return [f"*{row.kind}* | {row.reason}" for row in rows.values()]


def test_tables_have_every_row_with_its_reason() -> None:
    text = render_tables()

    for client, tables in ITEM_TABLES.items():
        for rows in (PARAMETER_TABLES[client], *tables.values()):
            assert rows
            assert all(line in text for line in lines_of(rows))
    ollama = [*OLLAMA_TABLES.values(), *EMBEDDING_TABLES.values()]
    assert all(line in text for rows in ollama for line in lines_of(rows))
    count = sum(map(len, [*PARAMETER_TABLES.values(), *ollama]))
    count += sum(len(rows) for tables in ITEM_TABLES.values() for rows in tables.values())
    assert text.count("\n| `") == count


def test_every_disposition_has_a_meaning() -> None:
    tables = [*PARAMETER_TABLES.values(), *OLLAMA_TABLES.values(), *EMBEDDING_TABLES.values()]
    tables += [rows for each in ITEM_TABLES.values() for rows in each.values()]

    assert {row.kind for rows in tables for row in rows.values()} == DISPOSITIONS.keys()


def test_case_is_in_words_and_neutral_values_are_named() -> None:
    text = render_tables()

    assert "| `shell`, in a container | *dropped* |" in text
    assert "and stores the result; `false` requests nothing" in text
    assert '; `"disabled"` requests nothing' in text
    assert '; `""` requests nothing' in text
