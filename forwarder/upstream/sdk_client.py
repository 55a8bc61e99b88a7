"""The official SDK's client: its own methods open the streams of upstreams.

`chat.completions.create` and `responses.stream` take a body as typed parameters, walk through
it (14 ms for 100 messages), encode it and build a typed object for each event.  Bodies and events
stay JSON here, so the encoded body travels through these methods as their `extra_body`, and the
caller gets the unread response of the stream object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple, cast

import httpx2
import openai
from openai import Omit, OpenAI, Stream, omit
from openai._models import FinalRequestOptions
from openai.lib.streaming.responses import ResponseStreamManager
from openai.resources.responses import Responses

from forwarder.protocols.chat import CHAT
from forwarder.upstream.transport.sdk_http_client import parse_target

_USER_AGENT = f"OpenAI/Python {openai.__version__}"
"""The SDK's own User-Agent. The SDK would derive another one from the name of a subclass."""

RAW_STREAM = Stream[object]
"""The stream class for calls that return the unread response instead of a stream."""

_BLANK_OPTIONS = FinalRequestOptions.construct(method="", url="", params={}, max_retries=0)
"""The SDK's options that are the same for all encoded requests.  Filling in their defaults for each
request takes the SDK as long as sending it."""

_IN_EXTRA_BODY: Any = omit
"""Stands for a required parameter that travels in `extra_body`."""


class EncodedRequest(NamedTuple):
    """A request that is ready to send: the whole URL and the bytes of the JSON body.

    A GET has no body.  ``id`` spares the SDK from drawing an id for its retries, which are off.
    """

    url: str
    content: bytes | None
    id: str


class UnreadStream(Stream[Any]):
    """The SDK's stream object around an unread ``response``. It decodes and yields no events."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class EncodedResponses(Responses):
    """The SDK's methods for responses, for bodies that are already encoded."""

    def create(self, **parameters: Any) -> Any:
        """Create a response; `stream` calls this.

        `stream` requires ``model`` and ``input``, which are in the encoded body.  They are left out
        here, because the SDK would hash their large union types in every call.
        """
        return super().create(**{**parameters, "model": omit, "input": omit})


class SdkClient(OpenAI):
    """The SDK's client, which sends nothing about this machine and no typed bodies.

    It leaves out the organization and the project that the SDK finds in the environment, because
    they are meant for OpenAI only.
    """

    def __init__(self, headers: Mapping[str, str], **options: Any) -> None:
        super().__init__(**options)
        json = "application/json"
        fixed = {"Accept": json, "Content-Type": json, "User-Agent": _USER_AGENT}
        self._fixed_headers: dict[str, str | Omit] = {**fixed, **headers}
        self._has_default_query = bool(self.default_query)
        # The SDK imports their modules on first use, which takes a quarter of a second.
        _ = self.chat.completions, self.responses

    @cached_property
    def responses(self) -> EncodedResponses:
        """The methods for responses."""
        return EncodedResponses(self)

    def _prepare_url(self, url: str) -> httpx2.URL:
        """Parse each whole URL only once: there are few, and each is used many times."""
        return parse_target(url)[0] if url.startswith("http") else super()._prepare_url(url)

    def _build_request(
        self, options: FinalRequestOptions, *, retries_taken: int = 0
    ) -> httpx2.Request:
        """Build a request with an encoded body; the SDK builds all others.

        The SDK's merging of a query, a form and files takes a fifth of a call and is not needed.
        """
        if not isinstance(options.content, bytes) or options.params or self._has_default_query:
            return super()._build_request(options, retries_taken=retries_taken)
        timeout: Any = options.timeout
        return self._client.build_request(
            options.method,
            options.url,
            headers=self._build_headers(options, retries_taken=retries_taken),
            content=options.content,
            timeout=timeout,
        )

    # The SDK's versions of these six serve its own ways to obtain a key (a function, a workload's
    # identity, a provider) and import a module in each call. All keys here are fixed strings.

    def _auth_headers(self, security: Any) -> dict[str, str]:
        """Add no header: `UpstreamConnection` sets or omits ``Authorization`` in each request."""
        return {}

    def _validate_headers(self, headers: Any, custom_headers: Any) -> None:
        """Accept the headers, also without ``Authorization``."""

    def _prepare_options(self, options: FinalRequestOptions) -> FinalRequestOptions:
        return options

    def _prepare_request(self, request: httpx2.Request) -> None:
        """Leave the request as it is."""

    def _custom_auth(self, security: Any) -> httpx2.Auth | None:
        return None

    def _send_request(
        self, request: httpx2.Request, *, stream: bool, **options: Any
    ) -> httpx2.Response:
        return self._client.send(request, stream=stream, **options)

    @property
    def default_headers(self) -> dict[str, str | Omit]:
        """The headers that every request has."""
        return self._fixed_headers

    def open_stream(
        self, protocol: str, request: EncodedRequest, headers: Mapping[str, Any], timeout: Any
    ) -> httpx2.Response:
        """Send a request for a stream of ``protocol`` and return its response, unread.

        ``protocol`` is ``chat`` or ``responses``.  Raises the SDK's errors.
        """
        options: Any = {"extra_body": request, "extra_headers": headers, "timeout": timeout}
        if protocol == CHAT.name:
            stream: Stream[Any] = self.chat.completions.create(
                model=_IN_EXTRA_BODY, messages=_IN_EXTRA_BODY, stream=True, **options
            )
            return stream.response
        return read_raw_response(self.responses.stream(model="", input="", **options))

    def send_unread(
        self, request: EncodedRequest, headers: Mapping[str, Any], timeout: Any
    ) -> httpx2.Response:
        """Send a request and return its response, unread."""
        return self._send_encoded("post", request, {"headers": headers, "timeout": timeout})

    def reopen_stream(
        self, response_id: str, request: EncodedRequest, headers: Mapping[str, Any], timeout: Any
    ) -> httpx2.Response:
        """Send a request for the stream of an existing response; return its response, unread."""
        options: Any = {"extra_body": request, "extra_headers": headers, "timeout": timeout}
        return read_raw_response(self.responses.stream(response_id=response_id, **options))

    def post(self, path: str, **arguments: Any) -> Any:
        """Send a POST request; an `EncodedRequest` in `extra_body` replaces path and body."""
        request = arguments.get("options", {}).get("extra_json")
        if not isinstance(request, EncodedRequest):
            return super().post(path, **arguments)
        return UnreadStream(self._send_encoded("post", request, arguments["options"]))

    def get(self, path: str, **arguments: Any) -> Any:
        """Send a GET request; an `EncodedRequest` in `extra_body` replaces the path."""
        request = arguments.get("options", {}).get("extra_json")
        if not isinstance(request, EncodedRequest):
            return super().get(path, **arguments)
        return UnreadStream(self._send_encoded("get", request, arguments["options"]))

    def _send_encoded(
        self, method: str, request: EncodedRequest, options: Mapping[str, Any]
    ) -> httpx2.Response:
        """Send a request with these options of `post` or `get`; return its response, unread."""
        own: dict[str, Any] = {
            "method": method,
            "url": request.url,
            "content": request.content,
            "extra_json": None,
            "security": {},  # the headers authenticate the request
            "idempotency_key": request.id,
        }
        # With this type the SDK returns the response itself.
        response: Any = self.request(
            httpx2.Response,
            _BLANK_OPTIONS.model_copy(update={**options, **own}),
            stream=True,
            stream_cls=RAW_STREAM,
        )
        return cast(httpx2.Response, response)


def read_raw_response(manager: ResponseStreamManager[Any]) -> httpx2.Response:
    """Enter the SDK's stream of responses and return its unread response.

    The caller closes the response, so the manager's ``__exit__`` is never called.
    """
    stream = manager.__enter__()
    # The stream's generator keeps the stream, and so the request's body, alive in a cycle until
    # it ends. An `UnreadStream` has no events, so it ends at once.
    next(stream, None)
    return stream._response
