"""The dispositions of parameters, items, content parts and tools, as Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from forwarder.protocols.item_dispositions import parse_row_type
from forwarder.protocols.messages_dispositions import MESSAGES_ITEM_TABLES, MESSAGES_PARAMETERS
from forwarder.protocols.ollama import OLLAMA_EMBEDDING_PROTOCOLS, OLLAMA_PROTOCOLS
from forwarder.protocols.parameters import Disposition
from forwarder.protocols.registry import UPSTREAM_PROTOCOLS
from tools.docgen.markdown import format_code, render_table

_DIRECTIONS = {
    "responses": "Responses client, Chat upstream",
    "chat": "Chat client, Responses upstream",
}

_OLLAMA_PATHS = {
    "ollama": "`/api/chat`",
    "ollama_generate": "`/api/generate`",
    "ollama_embed": "`/api/embed`",
    "ollama_embeddings": "`/api/embeddings`",
}

DISPOSITIONS = {
    "carried": "sent unchanged",
    "mapped": "sent under another name, in another shape or in another place",
    "emulated": "the upstream's API lacks it; the forwarder does it",
    "offered": "sent to upstreams whose profile accepts it, otherwise dropped",
    "local": "used by the forwarder, not sent",
    "noted": "left out and named in `X-Forwarder-Dropped`; strict mode does not refuse it, because "
    "it requests nothing",
    "dropped": "left out and named in `X-Forwarder-Dropped`; strict mode refuses the request",
    "refused": "answered with a 400 that names it",
}


def render_summary() -> str:
    """Return a table of the parameters of both directions by disposition.

    Some dispositions apply to items and parts only. They are listed too, because this table is
    where a reader of the page looks up their meanings.
    """
    rows = (
        [
            f"*{kind}*: {meaning}",
            *(_list_names(UPSTREAM_PROTOCOLS[client].parameters, kind) for client in _DIRECTIONS),
        ]
        for kind, meaning in DISPOSITIONS.items()
    )
    return render_table(["disposition", *_DIRECTIONS.values()], rows)


def render_ollama_summary() -> str:
    """Return a table of the parameters of Ollama's chat and generate APIs by disposition."""
    merged = {name: row for each in OLLAMA_PROTOCOLS for name, row in each.parameters.items()}
    rows = (
        [f"*{kind}*: {meaning}", _list_names(merged, kind)]
        for kind, meaning in DISPOSITIONS.items()
        if any(row.kind == kind for row in merged.values())
    )
    return render_table(["disposition", "parameters of `/api/chat` and `/api/generate`"], rows)


def render_messages_summary() -> str:
    """Return a table of the parameters of Anthropic's Messages API by disposition."""
    rows = (
        [f"*{kind}*: {meaning}", _list_names(MESSAGES_PARAMETERS, kind)]
        for kind, meaning in DISPOSITIONS.items()
        if any(row.kind == kind for row in MESSAGES_PARAMETERS.values())
    )
    return render_table(["disposition", "parameters of `/v1/messages`"], rows)


def _list_names(rows: Mapping[str, Disposition], kind: str) -> str:
    return format_code(name for name, row in sorted(rows.items()) if row.kind == kind) or "–"


def render_tables() -> str:
    """Return all tables of all directions, with the reasons."""
    return "\n\n".join(iterate_sections())


def iterate_sections() -> Iterator[str]:
    for client, direction in _DIRECTIONS.items():
        yield f"## {direction}"
        yield "### Parameters"
        yield _render_disposition_table("parameter", UPSTREAM_PROTOCOLS[client].parameters)
        for about, rows in UPSTREAM_PROTOCOLS[client].item_tables.items():
            yield f"### {about[0].upper()}{about[1:]}"
            yield _render_disposition_table("role" if about == "messages" else "type", rows)
    yield "## Messages client, Chat or Responses upstream"
    yield "### Parameters of `/v1/messages`"
    yield _render_disposition_table("parameter", MESSAGES_PARAMETERS)
    for about, rows in MESSAGES_ITEM_TABLES.items():
        yield f"### {about[0].upper()}{about[1:]} of `/v1/messages`"
        yield _render_disposition_table("type", rows)
    yield "## Ollama client, Chat or embeddings upstream"
    for pair in (OLLAMA_PROTOCOLS, OLLAMA_EMBEDDING_PROTOCOLS):
        shared = find_shared_rows(*(each.parameters for each in pair))
        yield "### " + " and ".join(_OLLAMA_PATHS[each.name] for each in pair)
        yield _render_disposition_table("parameter", shared)
        for each in pair:
            yield f"### Only {_OLLAMA_PATHS[each.name]}"
            own = {name: row for name, row in each.parameters.items() if name not in shared}
            yield _render_disposition_table("parameter", own)


def find_shared_rows(
    first: Mapping[str, Disposition], second: Mapping[str, Disposition]
) -> dict[str, Disposition]:
    """Return the parameters that two routes of Ollama's API have, with the same disposition."""
    return {name: row for name, row in first.items() if second.get(name) == row}


def _render_disposition_table(heading: str, rows: Mapping[str, Disposition]) -> str:
    cells = (
        [_format_name(name), f"*{row.kind}*", _format_reason(row)] for name, row in rows.items()
    )
    return render_table([heading, "disposition", "how or why"], cells)


def _format_name(row: str) -> str:
    """Return the type as code, followed by the words that tell its case apart."""
    return f"`{parse_row_type(row)}`{row.removeprefix(parse_row_type(row))}"


def _format_reason(row: Disposition) -> str:
    if not row.neutral:
        return row.reason
    values = format_code(json.dumps(value) for value in row.neutral)
    return f"{row.reason}; {values} requests nothing"
