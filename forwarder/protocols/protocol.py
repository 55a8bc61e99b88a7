"""`Protocol`: the facts about one wire API that the rest of the forwarder needs.

A new API for clients is one `ClientProtocol` in a module of its own, which `registry.py` lists,
and a translation. Code outside of this package and of the pipeline asks a protocol for its facts
and never compares names of protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from forwarder.core.errors import ForwarderError
from forwarder.core.types import Batch, EventStream, Json
from forwarder.protocols.item_dispositions import DispositionTable
from forwarder.protocols.parameters import Disposition
from forwarder.protocols.stream_end import CompletenessCheck, InterruptibleStream

AUTO_STYLE = "auto"
"""The reasoning style that depends on the client and its request."""


class Framing(NamedTuple):
    """The stream format of a protocol: events, keep-alives and end marker."""

    encode: Callable[[Batch], bytes]
    keep_alive: bytes
    end: bytes = b""
    mimetype: str = "text/event-stream"


class ErrorAnswer(NamedTuple):
    """The answer to a request that failed."""

    status: int
    body: Json


class ClientApi(NamedTuple):
    """An API as HTTP clients see it: how its requests are recognized, and its common answers.

    ``is_requested`` gets the path of any request, even if no route matches it, and a function that
    returns whether the request has a header. ``encode_error`` gets the error and the request id.
    ``request_id_headers`` carry the request id in addition to ``X-Request-Id``.
    ``make_model_page`` and ``make_model_entry`` convert OpenAI's model objects at ``/v1/models``;
    the first one gets the query too.
    """

    is_requested: Callable[[str, Callable[[str], bool]], bool]
    encode_error: Callable[[ForwarderError, str], ErrorAnswer]
    request_id_headers: tuple[str, ...] = ()
    make_model_page: Callable[[list[Json], Mapping[str, str]], Json] | None = None
    make_model_entry: Callable[[Json], Json] = dict


OPENAI_API = ClientApi(
    lambda path, has_header: True,
    lambda error, request_id: ErrorAnswer(error.status, error.make_body()),
)
"""The API of all requests that no other API claims."""


class Carrier(NamedTuple):
    """The client protocol whose pipeline also serves another client protocol.

    ``style`` is the reasoning style that the translation reads; None for the carrier's default.
    """

    protocol: str
    style: str | None = None


class ConversationFields(NamedTuple):
    """Where a request has its conversation, such as ``messages``.

    ``part_fields`` are the fields of its entries that hold content parts. ``instructions`` is the
    parameter for the system prompt; None if it is the first entry of the conversation.
    """

    parameter: str
    part_fields: tuple[str, ...]
    instructions: str | None = None


@dataclass(frozen=True, eq=False)
class Protocol:
    """A wire API. Protocols of embeddings have only these fields.

    ``parameters`` are the dispositions of a client's parameters if the upstream speaks another
    protocol. ``parameter_names`` maps the upstream's parameter, or a path in one, to the client's
    possible names for it. ``upstream_api`` is the API of upstreams that serves the protocol best.
    ``paths`` are those of its requests.
    """

    name: str
    upstream_api: str
    parameters: Mapping[str, Disposition] = field(default_factory=dict)
    parameter_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rewords_unknown_model: bool = False
    """Clients depend on the wording of the error for an unknown model, so it is reworded."""
    is_embedding: bool = False
    api: ClientApi = OPENAI_API
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class ClientProtocol(Protocol):
    """A protocol in which clients ask for generated answers.

    ``fold`` turns a stream into one whole answer; ``append_error`` ends a stream properly after a
    failure.
    """

    framing: Framing
    fold: Callable[[EventStream], Json]
    append_error: Callable[[EventStream], InterruptibleStream]
    served_as: Mapping[str, Carrier] = field(default_factory=dict)
    """The upstream's protocol -> the carrier; empty if the protocol has its own stages."""
    streams_by_default: bool = False
    runs_in_background: bool = False
    """Requests with ``background: true`` outlive the connection."""
    stored_object: str | None = None
    """The type of the objects in which the API stores answers, if it does."""
    reasoning_styles: tuple[str, ...] = ()
    """The reasoning styles that clients can choose from."""
    has_nested_options: bool = False
    """Some parameters are fields of an ``options`` object."""


@dataclass(frozen=True, eq=False, kw_only=True)
class UpstreamProtocol(ClientProtocol):
    """A protocol that both clients and upstreams speak.

    ``require_complete`` raises if a stream ends before its answer does.
    """

    conversation: ConversationFields
    item_tables: Mapping[str, DispositionTable]
    """Title -> the dispositions of the typed objects in a client's conversation and tools."""
    require_complete: CompletenessCheck
    has_media_ids: bool
    """Images can be named by the id of a file, and files by URL."""
    passes_unadapted: bool
    """A passed-through request is sent unchanged to a provider without a profile."""
