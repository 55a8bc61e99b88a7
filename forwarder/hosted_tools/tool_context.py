"""The client of a request and the services of higher layers, as hosted tools see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from forwarder.core.body_memory import UNLIMITED_MEMORY, BodyMemory
from forwarder.core.types import Json
from forwarder.upstream.files import MultipartForm, PassthroughResponse


class FilePassage(NamedTuple):
    """A passage that was found; ``score`` is from 0 to 1."""

    file_id: str
    filename: str
    score: float
    attributes: Json
    text: str


SearchFiles = Callable[[str], list[FilePassage]]
"""Searches the stores of one tool; the argument is the query. Raises ForwarderError."""

PrepareFileSearch = Callable[[Json, str], SearchFiles]
"""Validates a ``file_search`` tool at a path of the request. Raises InvalidRequest."""


class ToolClient(NamedTuple):
    """The client of a request.

    ``account`` identifies it to the fetcher of pages. ``prepare_file_search`` is ``None`` if no
    files are stored here. ``body_memory`` counts the pages and images of its tools.
    """

    account: str = ""
    prepare_file_search: PrepareFileSearch | None = None
    body_memory: BodyMemory = UNLIMITED_MEMORY


class GeneratedImage(NamedTuple):
    """An image as Base64, more fields of its item, and the usage of its maker."""

    data: str
    fields: Json
    usage: Json | None = None


class CallScope(Protocol):
    """A call of a tool, or its client; ``cancel_callbacks`` are called when it is cancelled."""

    cancel_callbacks: set[Callable[[], None]]

    @property
    def is_cancelled(self) -> bool: ...


class UpstreamAccess(Protocol):
    """The access of tools to upstreams; ``client`` is the account that pays for the tokens.

    All methods raise ForwarderError. An answer may take as long as a call of a tool.
    """

    def ask(self, request: Json, client: str, call: CallScope) -> Json:
        """Answer a Responses request, without a stream."""

    def ask_chat(self, request: Json, client: str, call: CallScope) -> Json:
        """Answer a Chat request, without a stream."""

    def send_images(
        self,
        upstream: str,
        path: str,
        content: Json | MultipartForm,
        client: str,
        call: CallScope,
        read: Callable[[PassthroughResponse], GeneratedImage],
    ) -> GeneratedImage:
        """Send a request of the images API to an upstream; ``read`` reads its answer."""


GetUpstreams = Callable[[], UpstreamAccess]
