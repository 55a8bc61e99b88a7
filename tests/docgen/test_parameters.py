"""Everything that has a disposition is on the page, once."""

from __future__ import annotations

from forwarder.protocols.item_dispositions import DispositionTable
from forwarder.protocols.messages_dispositions import MESSAGES_ITEM_TABLES, MESSAGES_PARAMETERS
from forwarder.protocols.ollama import OLLAMA_EMBEDDING_PROTOCOLS, OLLAMA_PROTOCOLS
from forwarder.protocols.registry import PROTOCOLS, UPSTREAM_PROTOCOLS
from tests.helpers.check_cases import check_each
from tools.docgen.parameters import (
    DISPOSITIONS,
    find_shared_rows,
    render_messages_summary,
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


@check_each("client", UPSTREAM_PROTOCOLS)
def test_summary_has_every_parameter_with_its_disposition(client: str) -> None:
    found = read_summary(render_summary(), COLUMNS[client])

    assert found == {name: row.kind for name, row in UPSTREAM_PROTOCOLS[client].parameters.items()}


def test_ollama_summary_has_every_parameter_with_its_disposition() -> None:
    found = read_summary(render_ollama_summary(), 1)

    assert found == {n: row.kind for each in OLLAMA_PROTOCOLS for n, row in each.parameters.items()}


def test_messages_summary_has_every_parameter_with_its_disposition() -> None:
    found = read_summary(render_messages_summary(), 1)

    assert found == {name: row.kind for name, row in MESSAGES_PARAMETERS.items()}


def lines_of(rows: DispositionTable) -> list[str]:
    return [f"*{row.kind}* | {row.reason}" for row in rows.values()]


def test_tables_have_every_row_with_its_reason() -> None:
    text = render_tables()

    for each in UPSTREAM_PROTOCOLS.values():
        for rows in (each.parameters, *each.item_tables.values()):
            assert rows
            assert all(line in text for line in lines_of(rows))
    others = [each.parameters for each in (*OLLAMA_PROTOCOLS, *OLLAMA_EMBEDDING_PROTOCOLS)]
    others += [MESSAGES_PARAMETERS, *MESSAGES_ITEM_TABLES.values()]
    assert all(line in text for rows in others for line in lines_of(rows))
    pairs = (OLLAMA_PROTOCOLS, OLLAMA_EMBEDDING_PROTOCOLS)
    shared = [find_shared_rows(*(each.parameters for each in pair)) for pair in pairs]
    assert all(shared)
    count = sum(map(len, others)) - sum(map(len, shared))
    for each in UPSTREAM_PROTOCOLS.values():
        count += len(each.parameters) + sum(map(len, each.item_tables.values()))
    assert text.count("\n| `") == count


def test_every_disposition_has_a_meaning() -> None:
    tables = [each.parameters for each in PROTOCOLS.values()]
    tables += [rows for each in UPSTREAM_PROTOCOLS.values() for rows in each.item_tables.values()]

    assert {row.kind for rows in tables for row in rows.values()} == DISPOSITIONS.keys()


def test_case_is_in_words_and_neutral_values_are_named() -> None:
    text = render_tables()

    assert "| `shell`, in a container | *dropped* |" in text
    assert "and stores the result; `false` requests nothing" in text
    assert '; `"disabled"` requests nothing' in text
    assert '; `""` requests nothing' in text
