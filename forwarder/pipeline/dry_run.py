"""The dry run: the upstream request that a request becomes, and a report of its parameters.

The pipeline is the real one.  Only its terminal handler and its media functions are replaced: the
terminal handler ends the run, and files have placeholders.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from forwarder.context.request_context import Route
from forwarder.core.data_urls import Blob
from forwarder.core.errors import InvalidRequest
from forwarder.core.types import EventStream, Handler, Json
from forwarder.core.validate import check_enum
from forwarder.middleware.media.fetch import MAX_URL_LENGTH
from forwarder.protocols.chat import CHAT
from forwarder.protocols.ollama import flatten_options
from forwarder.protocols.parameters import Disposition
from forwarder.protocols.protocol import ClientProtocol
from forwarder.protocols.registry import CLIENT_PROTOCOLS, PROTOCOLS, UPSTREAM_PROTOCOLS
from forwarder.protocols.responses import RESPONSES
from forwarder.protocols.tool_secrets import hide_tool_secrets_of
from forwarder.protocols.types import MIN_OUTPUT_TOKENS
from forwarder.upstream.client import PreviewedRequest


def detect_protocol(request: Json, named: str | None) -> str:
    """The protocol of a request: ``named``, or inferred from its fields.

    Raises InvalidRequest if the protocol is ambiguous.
    """
    if named is not None:
        return str(check_enum(named, tuple(CLIENT_PROTOCOLS), "from"))
    matching = [
        protocol.name
        for protocol in UPSTREAM_PROTOCOLS.values()
        if protocol.conversation.parameter in request
    ]
    if len(matching) != 1:
        raise InvalidRequest(
            "The API of this request is ambiguous; add one of "
            f"{', '.join(f'from={name}' for name in CLIENT_PROTOCOLS)}.",
            param="from",
            code="missing_required_parameter",
        )
    return matching[0]


class DryRunFinished(Exception):
    """Ends the dry run with the request that would be sent."""

    def __init__(self, sent: PreviewedRequest) -> None:
        super().__init__()
        self.sent = sent


class DryRun:
    """Replaces the terminal handler and the media functions, and records their use.

    ``preview`` returns the upstream request.  ``fetched`` and ``uploaded`` are paths in the
    client's request.
    """

    def __init__(self, preview: Callable[[Json], PreviewedRequest]) -> None:
        self._preview = preview
        self.fetched: list[str] = []
        self.uploaded: list[str] = []

    def handle_request(self, request: Json) -> EventStream:
        """Replace the upstream's handler."""
        raise DryRunFinished(self._preview(request))

    def fetch(self, wanted: Mapping[str, str]) -> Mapping[str, Blob]:
        """Replace the fetcher."""
        self.fetched += wanted.values()
        return {
            url: PlaceholderBlob(url.encode(), "image/*", guess_file_name(url)) for url in wanted
        }

    def upload(self, blob: Blob, path: str) -> str:
        """Replace an upload."""
        self.uploaded.append(path)
        return "<the id of the uploaded file>"

    def download(self, file_id: str, path: str) -> Blob:
        """Replace a download from the upstream."""
        self.fetched.append(path)
        return PlaceholderBlob(file_id.encode(), "image/*")

    def capture_request(self, call: Handler, request: Json) -> PreviewedRequest:
        """The upstream request; raises ForwarderError if the client's request is refused."""
        try:
            deque(call(request), maxlen=0)
        except DryRunFinished as finished:
            return finished.sent
        raise InvalidRequest("Nothing is sent for this request: the forwarder answers it itself.")


class PlaceholderBlob(Blob):
    """A placeholder for the content of a URL or file."""

    @property
    def data_url(self) -> str:
        return f"<content of {self.data.decode()}>"


def guess_file_name(url: str) -> str | None:
    if len(url) > MAX_URL_LENGTH:
        return None
    try:
        return PurePosixPath(urlsplit(url).path).name or None
    except ValueError:  # the real request would be refused, because the URL is not valid
        return None


# -- report --------------------------------------------------------------------------------------


def build_report(
    asked: Json,
    client: str,
    route: Route,
    sent: PreviewedRequest,
    dropped: Mapping[str, str],
    run: DryRun,
) -> Json:
    """The report: the upstream request, and the disposition of every parameter."""
    dispositions = list_dispositions(asked, client, route.protocol, sent, dropped)
    return {
        "client": client,
        "upstream": {
            "name": route.upstream.name,
            "protocol": route.protocol,
            "model": route.model,
            "profile": sent.profile.name,
            "url": sent.url,
        },
        "request": hide_tool_secrets_of(sent.body),
        "dispositions": {
            name: render_disposition(disposition) for name, disposition in dispositions.items()
        },
        "fates": {  # the name in version 0.1
            name: render_disposition(disposition, "fate", "why")
            for name, disposition in dispositions.items()
        },
        "dropped": dict(dropped),
        "emulated": {
            name: disposition.reason
            for name, disposition in dispositions.items()
            if disposition.kind == "emulated"
        },
        "would_fetch": run.fetched,
        "would_upload": run.uploaded,
    }


def list_dispositions(
    asked: Json, client: str, over: str, sent: PreviewedRequest, dropped: Mapping[str, str]
) -> dict[str, Disposition]:
    """The disposition of every parameter of a client's request over the upstream protocol ``over``.

    ``asked`` may be invalid: its request may have been refused.
    """
    protocol = PROTOCOLS[client]
    is_nested = isinstance(protocol, ClientProtocol) and protocol.has_nested_options
    flat = flatten_options(asked) if is_nested else asked
    return {
        name: find_disposition(name, value, client, over, sent, dropped)
        for name, value in flat.items()
        if value is not None
    }


def render_disposition(
    disposition: Disposition, kind_name: str = "disposition", reason_name: str = "reason"
) -> Json:
    """Return the disposition as an object, without a reason if it has none."""
    reason = {reason_name: disposition.reason} if disposition.reason else {}
    return {kind_name: disposition.kind, **reason}


def find_disposition(
    name: str,
    value: Any,
    client: str,
    over: str,
    sent: PreviewedRequest,
    dropped: Mapping[str, str],
) -> Disposition:
    """The disposition of a parameter: from its table, or from this request's values."""
    if name in dropped:
        return Disposition("dropped", reason=dropped[name])
    for names, is_emulated, disposition in _EMULATIONS:
        if name in names and is_emulated(value, client, over, sent):
            return disposition
    table = PROTOCOLS[client].parameters if client != over else {}
    disposition = table.get(name, _CARRIED)
    if value in disposition.neutral:
        return _NEUTRAL
    if disposition.kind == "carried" and sent.body.get(name) != value:
        return _ADAPTED
    return disposition


_CARRIED = Disposition("carried")
_NEUTRAL = Disposition("neutral", reason="this value has no effect")
_ADAPTED = Disposition(
    "mapped", reason="this upstream takes it in another form, or does not need it"
)


_UNSUPPORTED_FORMATS = {"json_object": ("json_schema",), "none": ("json_schema", "json_object")}
"""The best format that a provider supports -> formats that the forwarder emulates."""


def is_schema_checked(value: Any, client: str, over: str, sent: PreviewedRequest) -> bool:
    wanted = value.get("format") if client == RESPONSES.name and type(value) is dict else value
    over_chat = over == CHAT.name
    lacking = _UNSUPPORTED_FORMATS.get(sent.profile.response_format, ()) if over_chat else ()
    return type(wanted) is dict and wanted.get("type") in lacking


def is_limit_low(value: Any, client: str, over: str, sent: PreviewedRequest) -> bool:
    return client == CHAT.name != over and type(value) is int and value < MIN_OUTPUT_TOKENS


_EMULATIONS: tuple[
    tuple[tuple[str, ...], Callable[[Any, str, str, PreviewedRequest], bool], Disposition], ...
] = (
    (
        ("response_format", "text"),
        is_schema_checked,
        Disposition(
            "emulated", reason="the schema goes into the prompt, and the answer is checked here"
        ),
    ),
    (
        ("max_tokens", "max_completion_tokens"),
        is_limit_low,
        Disposition("emulated", reason="the limit is raised upstream, and the answer is cut here"),
    ),
)
"""Emulations that depend on a value or a profile, and so cannot be in the tables."""
