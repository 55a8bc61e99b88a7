"""All protocols, by name: `PROTOCOLS`, and its parts by role.

Names of protocols are stored, logged and configured, so objects that live longer than a request
hold names. Code looks the protocol up here and asks it for facts.
"""

from __future__ import annotations

from forwarder.protocols.chat import CHAT
from forwarder.protocols.ollama import OLLAMA_EMBEDDING_PROTOCOLS, OLLAMA_PROTOCOLS
from forwarder.protocols.protocol import ClientProtocol, Protocol, UpstreamProtocol
from forwarder.protocols.responses import RESPONSES

UPSTREAM_PROTOCOLS: dict[str, UpstreamProtocol] = {each.name: each for each in (CHAT, RESPONSES)}
"""The protocols of upstreams, which clients speak too."""

CLIENT_PROTOCOLS: dict[str, ClientProtocol] = {
    **UPSTREAM_PROTOCOLS,
    **{each.name: each for each in OLLAMA_PROTOCOLS},
}
"""The protocols in which clients ask for generated answers."""

EMBEDDINGS = Protocol("embeddings", upstream_api="chat", is_embedding=True)

EMBEDDING_PROTOCOLS: dict[str, Protocol] = {
    each.name: each for each in (EMBEDDINGS, *OLLAMA_EMBEDDING_PROTOCOLS)
}
"""The protocols in which clients ask for embeddings."""

PROTOCOLS: dict[str, Protocol] = {**CLIENT_PROTOCOLS, **EMBEDDING_PROTOCOLS}
"""All protocols of clients."""

ALL_STYLES = tuple(
    dict.fromkeys(style for each in CLIENT_PROTOCOLS.values() for style in each.reasoning_styles)
)
"""All reasoning styles."""
