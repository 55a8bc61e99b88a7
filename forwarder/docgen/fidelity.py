"""What becomes of what a client sends, as Markdown out of the tables of fates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from forwarder.docgen.markdown import format_code, render_table
from forwarder.protocols.items import ITEM_TABLES, parse_row_type
from forwarder.protocols.ollama_parameters import EMBEDDING_TABLES, OLLAMA_TABLES
from forwarder.protocols.parameters import PARAMETER_TABLES, Disposition

_DIRECTIONS = {
    "responses": "a Responses client over a Chat upstream",
    "chat": "a Chat client over a Responses upstream",
}

_OLLAMA_ENDPOINTS = {
    "ollama": "`/api/chat`",
    "ollama_generate": "`/api/generate`",
    "ollama_embed": "`/api/embed`",
    "ollama_embeddings": "`/api/embeddings`",
}

_KIND_DESCRIPTIONS = {
    "carried": "as it is",
    "mapped": "under another name, or in another shape or place",
    "emulated": "done here, since the upstream cannot",
    "offered": "sent to upstreams whose profile takes it, else dropped",
    "local": "honoured here, and not sent",
    "noted": "left out, and named in `X-Forwarder-Dropped`, but no reason for strict clients to be "
    "refused: it asks for nothing",
    "dropped": "left out, and named in `X-Forwarder-Dropped`",
    "refused": "a 400 that names it",
}


def render_parameters() -> str:
    """The parameters of both ways, by fate."""
    rows = (
        [
            f"*{kind}*: {told}",
            *(list_by_kind(PARAMETER_TABLES[client], kind) for client in _DIRECTIONS),
        ]
        for kind, told in _KIND_DESCRIPTIONS.items()
        if any(
            fate.kind == kind
            for client in _DIRECTIONS
            for fate in PARAMETER_TABLES[client].values()
        )
    )
    return render_table(["fate", *_DIRECTIONS.values()], rows)


def render_ollama() -> str:
    """The parameters of Ollama's API that ask for an answer, by fate."""
    fates = {name: fate for table in OLLAMA_TABLES.values() for name, fate in table.items()}
    rows = (
        [f"*{kind}*: {told}", list_by_kind(fates, kind)]
        for kind, told in _KIND_DESCRIPTIONS.items()
        if any(fate.kind == kind for fate in fates.values())
    )
    return render_table(["fate", "parameters of `/api/chat` and `/api/generate`"], rows)


def list_by_kind(fates: Mapping[str, Disposition], kind: str) -> str:
    return format_code(name for name, fate in sorted(fates.items()) if fate.kind == kind) or "–"


def render_fidelity() -> str:
    """Every table of every way, with the reasons."""
    return "\n\n".join(iter_sections())


def iter_sections() -> Iterator[str]:
    yield render_table(
        ["fate", "what it means"], ([f"*{k}*", told] for k, told in _KIND_DESCRIPTIONS.items())
    )
    for client, way in _DIRECTIONS.items():
        yield f"## {way[0].upper()}{way[1:]}"
        yield "### Parameters"
        yield render_dispositions("parameter", PARAMETER_TABLES[client])
        for about, fates in ITEM_TABLES[client].items():
            yield f"### {about[0].upper()}{about[1:]}"
            yield render_dispositions("role" if about == "messages" else "type", fates)
    yield "## An Ollama client over Chat or embeddings"
    for client, fates in {**OLLAMA_TABLES, **EMBEDDING_TABLES}.items():
        yield f"### {_OLLAMA_ENDPOINTS[client]}"
        yield render_dispositions("parameter", fates)


def render_dispositions(what: str, fates: Mapping[str, Disposition]) -> str:
    rows = (
        [format_row_name(name), f"*{fate.kind}*", describe_reason(fate)]
        for name, fate in fates.items()
    )
    return render_table([what, "fate", "why, or how"], rows)


def format_row_name(row: str) -> str:
    """The type as code; the case stays words."""
    return f"`{parse_row_type(row)}`{row.removeprefix(parse_row_type(row))}"


def describe_reason(fate: Disposition) -> str:
    if not fate.neutral:
        return fate.reason
    values = format_code("false" if value is False else str(value) for value in fate.neutral)
    return f"{fate.reason}; {values} asks for nothing"
