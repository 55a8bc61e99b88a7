"""The page of parameters lists every disposition once."""

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
    """Return the disposition of each parameter."""
    dispositions = {}
    for line in text.splitlines()[2:]:
        cells = line.strip("| ").split(" | ")
        for name in cells[column].split(", "):
            dispositions[name.strip("`")] = cells[0].split("*")[1]
    dispositions.pop("–", None)
    return dispositions


@check_each("client", UPSTREAM_PROTOCOLS)
def test_summary_has_every_parameter_with_its_disposition(client: str) -> None:
    dispositions = read_summary(render_summary(), COLUMNS[client])

    assert dispositions == {
        name: row.kind for name, row in UPSTREAM_PROTOCOLS[client].parameters.items()
    }


def test_ollama_summary_has_every_parameter_with_its_disposition() -> None:
    dispositions = read_summary(render_ollama_summary(), 1)

    assert dispositions == {
        n: row.kind for protocol in OLLAMA_PROTOCOLS for n, row in protocol.parameters.items()
    }


def test_messages_summary_has_every_parameter_with_its_disposition() -> None:
    dispositions = read_summary(render_messages_summary(), 1)

    assert dispositions == {name: row.kind for name, row in MESSAGES_PARAMETERS.items()}


def make_lines(rows: DispositionTable) -> list[str]:
    return [f"*{row.kind}* | {row.reason}" for row in rows.values()]


def test_tables_have_every_row_with_its_reason() -> None:
    text = render_tables()

    for protocol in UPSTREAM_PROTOCOLS.values():
        for rows in (protocol.parameters, *protocol.item_tables.values()):
            assert rows
            assert all(line in text for line in make_lines(rows))
    other_tables = [
        protocol.parameters for protocol in (*OLLAMA_PROTOCOLS, *OLLAMA_EMBEDDING_PROTOCOLS)
    ]
    other_tables += [MESSAGES_PARAMETERS, *MESSAGES_ITEM_TABLES.values()]
    assert all(line in text for rows in other_tables for line in make_lines(rows))
    pairs = (OLLAMA_PROTOCOLS, OLLAMA_EMBEDDING_PROTOCOLS)
    shared_rows = [find_shared_rows(*(protocol.parameters for protocol in pair)) for pair in pairs]
    assert all(shared_rows)
    count = sum(map(len, other_tables)) - sum(map(len, shared_rows))
    for protocol in UPSTREAM_PROTOCOLS.values():
        count += len(protocol.parameters) + sum(map(len, protocol.item_tables.values()))
    assert text.count("\n| `") == count


def test_every_disposition_has_a_meaning() -> None:
    tables = [protocol.parameters for protocol in PROTOCOLS.values()]
    tables += [
        rows for protocol in UPSTREAM_PROTOCOLS.values() for rows in protocol.item_tables.values()
    ]

    assert {row.kind for rows in tables for row in rows.values()} == DISPOSITIONS.keys()


def test_variants_and_neutral_values_are_described() -> None:
    text = render_tables()

    assert "| `shell`, in a container | *dropped* |" in text
    assert "and stores the result; `false` requests nothing" in text
    assert '; `"disabled"` requests nothing' in text
    assert '; `""` requests nothing' in text
