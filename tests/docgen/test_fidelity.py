"""Whatever has a fate is told of, once."""

from __future__ import annotations

import pytest

from forwarder.docgen.fidelity import render_fidelity, render_ollama, render_parameters
from forwarder.protocols.items import ITEM_TABLES, DispositionTable
from forwarder.protocols.ollama_parameters import EMBEDDING_TABLES, OLLAMA_TABLES
from forwarder.protocols.parameters import PARAMETER_TABLES

COLUMNS = {"responses": 2, "chat": 3}


@pytest.mark.parametrize("client", PARAMETER_TABLES)
def test_every_parameter_stands_with_its_fate(client: str) -> None:
    told = {}
    for line in render_parameters().splitlines()[2:]:
        cells = line.split(" | ")
        for name in cells[COLUMNS[client] - 1].rstrip(" |").split(", "):
            told[name.strip("`")] = cells[0].split("*")[1]

    told.pop("–", None)
    assert told == {name: fate.kind for name, fate in PARAMETER_TABLES[client].items()}


def test_every_parameter_of_ollama_s_stands_with_its_fate() -> None:
    told = {}
    for line in render_ollama().splitlines()[2:]:
        cells = line.split(" | ")
        for name in cells[1].rstrip(" |").split(", "):
            told[name.strip("`")] = cells[0].split("*")[1]

    assert told == {n: f.kind for table in OLLAMA_TABLES.values() for n, f in table.items()}


def lines_of(rows: DispositionTable) -> list[str]:
    return [f"*{fate.kind}* | {fate.reason}" for fate in rows.values()]


def test_every_row_of_every_table_is_told_with_its_reason() -> None:
    told = render_fidelity()

    for client, tables in ITEM_TABLES.items():
        for rows in (PARAMETER_TABLES[client], *tables.values()):
            assert rows
            assert all(line in told for line in lines_of(rows))
    of_ollama = [*OLLAMA_TABLES.values(), *EMBEDDING_TABLES.values()]
    assert all(line in told for rows in of_ollama for line in lines_of(rows))
    count = sum(map(len, [*PARAMETER_TABLES.values(), *of_ollama]))
    count += sum(len(rows) for tables in ITEM_TABLES.values() for rows in tables.values())
    assert told.count("\n| `") == count


def test_a_case_is_told_in_words_and_a_value_that_asks_for_nothing_too() -> None:
    told = render_fidelity()

    assert "| `shell`, in a container | *dropped* |" in told
    assert "and stores what comes; `false` asks for nothing" in told
    assert "`disabled` asks for nothing" in told
