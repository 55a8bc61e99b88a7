"""A request's whole path, and nobody called at its end: what it would become, and what of it.

The path is the bridge's own; only its ends are other ones.  Where it would post a request the dry
run is over, what it would fetch or upload has a placeholder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from forwarder.context.route import Route
from forwarder.core.data_urls import Blob
from forwarder.core.errors import InvalidRequest
from forwarder.core.types import EventStream, Handler, Json
from forwarder.core.validate import check_enum
from forwarder.models.router import UPSTREAM_PROTOCOLS
from forwarder.protocols.ollama_parameters import OLLAMA_TABLES, flatten_options
from forwarder.protocols.parameters import PARAMETER_TABLES, Disposition
from forwarder.protocols.tool_secrets import hide_tool_secrets_of
from forwarder.translation.chat_over_responses.request import MIN_OUTPUT_TOKENS
from forwarder.upstream.client import PreviewedRequest


def detect_protocol(request: Json, named: str | None) -> str:
    """Which API a request is for: the one that is ``named``, or the one that it looks like.

    Raises InvalidRequest when that cannot be told.
    """
    if named is not None:
        return str(check_enum(named, CLIENT_PROTOCOLS, "from"))
    like = [protocol for name, protocol in _DISTINCTIVE_FIELDS.items() if name in request]
    if len(like) != 1:
        raise InvalidRequest(
            "It cannot be told which API this is a request for; say from=chat, from=responses, "
            "from=ollama or from=ollama_generate.",
            param="from",
            code="missing_required_parameter",
        )
    return like[0]


CLIENT_PROTOCOLS = (*UPSTREAM_PROTOCOLS, *OLLAMA_TABLES)
"""Whose requests can be shown."""

_PARAMETER_TABLES = {**PARAMETER_TABLES, **OLLAMA_TABLES}

_DISTINCTIVE_FIELDS = {"messages": "chat", "input": "responses"}


class DryRunFinished(Exception):
    """The dry run is at its end, with what would be sent now."""

    def __init__(self, sent: PreviewedRequest) -> None:
        super().__init__()
        self.sent = sent


class DryRun:
    """The ends of one request's path: they note what they are asked for, and do none of it.

    ``show`` gives what the upstream would be sent.  ``fetched`` and ``uploaded`` are paths in the
    client's request.
    """

    def __init__(self, show: Callable[[Json], PreviewedRequest]) -> None:
        self._show = show
        self.fetched: list[str] = []
        self.uploaded: list[str] = []

    def handle_request(self, request: Json) -> EventStream:
        """In place of the upstream's call."""
        raise DryRunFinished(self._show(request))

    def fetch(self, wanted: Mapping[str, str]) -> Mapping[str, Blob]:
        """In place of the fetcher's."""
        self.fetched += wanted.values()
        return {
            url: PlaceholderBlob(url.encode(), "image/*", guess_file_name(url)) for url in wanted
        }

    def upload(self, blob: Blob, path: str) -> str:
        """In place of an upload."""
        self.uploaded.append(path)
        return "<the id of the uploaded file>"

    def download(self, file_id: str, path: str) -> Blob:
        """In place of a download from the upstream."""
        self.fetched.append(path)
        return PlaceholderBlob(file_id.encode(), "image/*")

    def capture_request(self, call: Handler, request: Json) -> PreviewedRequest:
        """What would be sent for a request; raises ForwarderError when it would be refused."""
        try:
            deque(call(request), maxlen=0)
        except DryRunFinished as over:
            return over.sent
        raise InvalidRequest("Nothing is sent for this request: it is answered here.")


class PlaceholderBlob(Blob):
    """Stands for what is at an address."""

    @property
    def data_url(self) -> str:
        return f"<what is at {self.data.decode()}>"


def guess_file_name(url: str) -> str | None:
    return PurePosixPath(urlsplit(url).path).name or None


# -- what is told of it -------------------------------------------------------------------------


def build_report(
    asked: Json,
    client: str,
    route: Route,
    sent: PreviewedRequest,
    dropped: Mapping[str, str],
    run: DryRun,
) -> Json:
    """The whole answer: the request as it would go, and the fate of everything in it."""
    fates = {
        name: find_disposition(name, value, client, route.protocol, sent, dropped)
        for name, value in (flatten_options(asked) if client in OLLAMA_TABLES else asked).items()
        if value is not None
    }
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
        "fates": {name: render_disposition(fate) for name, fate in fates.items()},
        "dropped": dict(dropped),
        "emulated": {name: fate.reason for name, fate in fates.items() if fate.kind == "emulated"},
        "would_fetch": run.fetched,
        "would_upload": run.uploaded,
    }


def render_disposition(fate: Disposition) -> Json:
    return {"fate": fate.kind, "why": fate.reason} if fate.reason else {"fate": fate.kind}


def find_disposition(
    name: str,
    value: Any,
    client: str,
    over: str,
    sent: PreviewedRequest,
    dropped: Mapping[str, str],
) -> Disposition:
    """What became of a parameter: what its table says, unless more is known of this request."""
    if name in dropped:
        return Disposition("dropped", reason=dropped[name])
    for names, is_made_up, fate in _EMULATIONS:
        if name in names and is_made_up(value, client, over, sent):
            return fate
    fate = _PARAMETER_TABLES[client].get(name, _CARRIED) if client != over else _CARRIED
    if value in fate.neutral:
        return _NEUTRAL
    if fate.kind == "carried" and sent.body.get(name) != value:
        return _ADAPTED
    return fate


_CARRIED = Disposition("carried")
_NEUTRAL = Disposition("neutral", reason="this value asks for nothing")
_ADAPTED = Disposition("mapped", reason="this upstream takes it in another form, or needs none")


_UNSUPPORTED_FORMATS = {"json_object": ("json_schema",), "none": ("json_schema", "json_object")}
"""The best format that a provider knows -> those that are made up for here."""


def is_schema_checked(value: Any, client: str, over: str, sent: PreviewedRequest) -> bool:
    wanted = value.get("format") or {} if client == "responses" else value
    lacking = _UNSUPPORTED_FORMATS.get(sent.profile.response_format, ()) if over == "chat" else ()
    return wanted.get("type") in lacking


def is_limit_low(value: Any, client: str, over: str, sent: PreviewedRequest) -> bool:
    return client == "chat" != over and bool(value < MIN_OUTPUT_TOKENS)


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
"""What is emulated by a parameter's value or the upstream's profile, which no table knows."""
