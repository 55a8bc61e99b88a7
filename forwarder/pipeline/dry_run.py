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
from forwarder.core.types import Call, Json, Stream
from forwarder.core.validate import choose
from forwarder.models.router import PROTOCOLS
from forwarder.protocols.ollama_parameters import OLLAMA_TABLES, flat
from forwarder.protocols.parameters import TABLES, Fate
from forwarder.protocols.tool_secrets import hide_tool_secrets_of
from forwarder.translation.chat_over_responses.request import OUTPUT_FLOOR
from forwarder.upstream.client import Sent


def protocol_of(request: Json, named: str | None) -> str:
    """Which API a request is for: the one that is ``named``, or the one that it looks like.

    Raises InvalidRequest when that cannot be told.
    """
    if named is not None:
        return str(choose(named, CLIENTS, "from"))
    like = [protocol for name, protocol in _MARKS.items() if name in request]
    if len(like) != 1:
        raise InvalidRequest(
            "It cannot be told which API this is a request for; say from=chat, from=responses, "
            "from=ollama or from=ollama_generate.",
            param="from",
            code="missing_required_parameter",
        )
    return like[0]


CLIENTS = (*PROTOCOLS, *OLLAMA_TABLES)
"""Whose requests can be shown."""

_FATES = {**TABLES, **OLLAMA_TABLES}

_MARKS = {"messages": "chat", "input": "responses"}


class _Over(Exception):
    """The dry run is at its end, with what would be sent now."""

    def __init__(self, sent: Sent) -> None:
        super().__init__()
        self.sent = sent


class DryRun:
    """The ends of one request's path: they note what they are asked for, and do none of it.

    ``show`` gives what the upstream would be sent.  ``fetched`` and ``uploaded`` are paths in the
    client's request.
    """

    def __init__(self, show: Callable[[Json], Sent]) -> None:
        self._show = show
        self.fetched: list[str] = []
        self.uploaded: list[str] = []

    def call(self, request: Json) -> Stream:
        """In place of the upstream's call."""
        raise _Over(self._show(request))

    def fetch(self, wanted: Mapping[str, str]) -> Mapping[str, Blob]:
        """In place of the fetcher's."""
        self.fetched += wanted.values()
        return {url: _Unfetched(url.encode(), "image/*", _name(url)) for url in wanted}

    def upload(self, blob: Blob, path: str) -> str:
        """In place of an upload."""
        self.uploaded.append(path)
        return "<the id of the uploaded file>"

    def download(self, file_id: str, path: str) -> Blob:
        """In place of a download from the upstream."""
        self.fetched.append(path)
        return _Unfetched(file_id.encode(), "image/*")

    def sent(self, call: Call, request: Json) -> Sent:
        """What would be sent for a request; raises ForwarderError when it would be refused."""
        try:
            deque(call(request), maxlen=0)
        except _Over as over:
            return over.sent
        raise InvalidRequest("Nothing is sent for this request: it is answered here.")


class _Unfetched(Blob):
    """Stands for what is at an address."""

    @property
    def url(self) -> str:
        return f"<what is at {self.data.decode()}>"


def _name(url: str) -> str | None:
    return PurePosixPath(urlsplit(url).path).name or None


# -- what is told of it -------------------------------------------------------------------------


def report(
    asked: Json, client: str, route: Route, sent: Sent, dropped: Mapping[str, str], run: DryRun
) -> Json:
    """The whole answer: the request as it would go, and the fate of everything in it."""
    fates = {
        name: _fate(name, value, client, route.protocol, sent, dropped)
        for name, value in (flat(asked) if client in OLLAMA_TABLES else asked).items()
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
        "fates": {name: _told(fate) for name, fate in fates.items()},
        "dropped": dict(dropped),
        "emulated": {name: fate.why for name, fate in fates.items() if fate.kind == "emulated"},
        "would_fetch": run.fetched,
        "would_upload": run.uploaded,
    }


def _told(fate: Fate) -> Json:
    return {"fate": fate.kind, "why": fate.why} if fate.why else {"fate": fate.kind}


def _fate(
    name: str, value: Any, client: str, over: str, sent: Sent, dropped: Mapping[str, str]
) -> Fate:
    """What became of a parameter: what its table says, unless more is known of this request."""
    if name in dropped:
        return Fate("dropped", why=dropped[name])
    for names, is_made_up, fate in _MADE_UP:
        if name in names and is_made_up(value, client, over, sent):
            return fate
    fate = _FATES[client].get(name, _CARRIED) if client != over else _CARRIED
    if value in fate.neutral:
        return _NEUTRAL
    if fate.kind == "carried" and sent.body.get(name) != value:
        return _ADAPTED
    return fate


_CARRIED = Fate("carried")
_NEUTRAL = Fate("neutral", why="this value asks for nothing")
_ADAPTED = Fate("mapped", why="this upstream takes it in another form, or needs none")


_LACKING = {"json_object": ("json_schema",), "none": ("json_schema", "json_object")}
"""The best format that a provider knows -> those that are made up for here."""


def _schema_is_checked(value: Any, client: str, over: str, sent: Sent) -> bool:
    wanted = value.get("format") or {} if client == "responses" else value
    lacking = _LACKING.get(sent.profile.response_format, ()) if over == "chat" else ()
    return wanted.get("type") in lacking


def _limit_is_low(value: Any, client: str, over: str, sent: Sent) -> bool:
    return client == "chat" != over and bool(value < OUTPUT_FLOOR)


_MADE_UP: tuple[tuple[tuple[str, ...], Callable[[Any, str, str, Sent], bool], Fate], ...] = (
    (
        ("response_format", "text"),
        _schema_is_checked,
        Fate("emulated", why="the schema goes into the prompt, and the answer is checked here"),
    ),
    (
        ("max_tokens", "max_completion_tokens"),
        _limit_is_low,
        Fate("emulated", why="the limit is raised upstream, and the answer is cut here"),
    ),
)
"""What is emulated by a parameter's value or the upstream's profile, which no table knows."""
