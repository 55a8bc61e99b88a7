"""All protocols by name: `PROTOCOLS`, and a table for each role.

Names of protocols are stored, logged and configured, so objects that live longer than a request
hold names. Code looks the protocol up here and asks it for facts.
"""

from __future__ import annotations

from collections.abc import Callable

from forwarder.protocols.chat import CHAT
from forwarder.protocols.messages import MESSAGES
from forwarder.protocols.ollama import OLLAMA_EMBEDDING_PROTOCOLS, OLLAMA_PROTOCOLS
from forwarder.protocols.protocol import (
    OPENAI_API,
    ClientApi,
    ClientProtocol,
    Protocol,
    UpstreamProtocol,
)
from forwarder.protocols.responses import RESPONSES

UPSTREAM_PROTOCOLS: dict[str, UpstreamProtocol] = {each.name: each for each in (CHAT, RESPONSES)}
"""The protocols of upstreams, which clients speak too."""

CLIENT_PROTOCOLS: dict[str, ClientProtocol] = {
    **UPSTREAM_PROTOCOLS,
    **{each.name: each for each in (*OLLAMA_PROTOCOLS, MESSAGES)},
}
"""The protocols in which clients ask for generated answers."""

EMBEDDINGS = Protocol(
    "embeddings", upstream_api="chat", is_embedding=True, paths=("/v1/embeddings",)
)

EMBEDDING_PROTOCOLS: dict[str, Protocol] = {
    each.name: each for each in (EMBEDDINGS, *OLLAMA_EMBEDDING_PROTOCOLS)
}
"""The protocols in which clients ask for embeddings."""

PROTOCOLS: dict[str, Protocol] = {**CLIENT_PROTOCOLS, **EMBEDDING_PROTOCOLS}
"""All protocols of clients."""

_APIS = tuple(dict.fromkeys(each.api for each in PROTOCOLS.values() if each.api is not OPENAI_API))


def find_api(path: str, has_header: Callable[[str], bool]) -> ClientApi:
    """Return the API of a request by its path and headers, even if no route matches."""
    return next((api for api in _APIS if api.is_requested(path, has_header)), OPENAI_API)


ALL_STYLES = tuple(
    dict.fromkeys(style for each in CLIENT_PROTOCOLS.values() for style in each.reasoning_styles)
)
"""All reasoning styles."""
