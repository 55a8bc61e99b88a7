"""What becomes of what a client sends, as Markdown out of the tables of fates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from forwarder.docgen.markdown import code, table
from forwarder.protocols.items import ITEM_TABLES, type_of
from forwarder.protocols.ollama_parameters import EMBEDDING_TABLES, OLLAMA_TABLES
from forwarder.protocols.parameters import TABLES, Fate

_WAYS = {
    "responses": "a Responses client over a Chat upstream",
    "chat": "a Chat client over a Responses upstream",
}

_OF_OLLAMA = {
    "ollama": "`/api/chat`",
    "ollama_generate": "`/api/generate`",
    "ollama_embed": "`/api/embed`",
    "ollama_embeddings": "`/api/embeddings`",
}

_KINDS = {
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


def parameters() -> str:
    """The parameters of both ways, by fate."""
    rows = (
        [f"*{kind}*: {told}", *(_of_kind(TABLES[client], kind) for client in _WAYS)]
        for kind, told in _KINDS.items()
        if any(fate.kind == kind for client in _WAYS for fate in TABLES[client].values())
    )
    return table(["fate", *_WAYS.values()], rows)


def of_ollama() -> str:
    """The parameters of Ollama's API that ask for an answer, by fate."""
    fates = {name: fate for table in OLLAMA_TABLES.values() for name, fate in table.items()}
    rows = (
        [f"*{kind}*: {told}", _of_kind(fates, kind)]
        for kind, told in _KINDS.items()
        if any(fate.kind == kind for fate in fates.values())
    )
    return table(["fate", "parameters of `/api/chat` and `/api/generate`"], rows)


def _of_kind(fates: Mapping[str, Fate], kind: str) -> str:
    return code(name for name, fate in sorted(fates.items()) if fate.kind == kind) or "–"


def everything() -> str:
    """Every table of every way, with the reasons."""
    return "\n\n".join(_sections())


def _sections() -> Iterator[str]:
    yield table(["fate", "what it means"], ([f"*{k}*", told] for k, told in _KINDS.items()))
    for client, way in _WAYS.items():
        yield f"## {way[0].upper()}{way[1:]}"
        yield "### Parameters"
        yield _told("parameter", TABLES[client])
        for about, fates in ITEM_TABLES[client].items():
            yield f"### {about[0].upper()}{about[1:]}"
            yield _told("role" if about == "messages" else "type", fates)
    yield "## An Ollama client over Chat or embeddings"
    for client, fates in {**OLLAMA_TABLES, **EMBEDDING_TABLES}.items():
        yield f"### {_OF_OLLAMA[client]}"
        yield _told("parameter", fates)


def _told(what: str, fates: Mapping[str, Fate]) -> str:
    rows = ([_named(name), f"*{fate.kind}*", _why(fate)] for name, fate in fates.items())
    return table([what, "fate", "why, or how"], rows)


def _named(row: str) -> str:
    """The type as code; the case stays words."""
    return f"`{type_of(row)}`{row.removeprefix(type_of(row))}"


def _why(fate: Fate) -> str:
    if not fate.neutral:
        return fate.why
    values = code("false" if value is False else str(value) for value in fate.neutral)
    return f"{fate.why}; {values} asks for nothing"
