"""Requests that the forwarder itself makes to upstreams, with the upstreams' own keys.

They pass through the same pipeline as clients' requests, with retries, circuit breakers and
observers, but run no hosted tools.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import ClientDisconnected, ForwarderError, UpstreamTimeout
from forwarder.core.ids import generate_id
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.hosted_tools.image_makers import IMAGE_SECONDS
from forwarder.hosted_tools.tool_context import CallScope, GeneratedImage
from forwarder.pipeline.upstream_calls import UpstreamCalls
from forwarder.protocols.chat import CHAT
from forwarder.protocols.registry import CLIENT_PROTOCOLS
from forwarder.protocols.responses import RESPONSES
from forwarder.protocols.stream_end import MALFORMED_EVENT_ERRORS, make_malformed_event_error
from forwarder.services import Services
from forwarder.upstream.files import MultipartForm, PassthroughResponse


def make_internal_context(services: Services, route: str, client: str = "") -> RequestContext:
    """Return the context of a request; ``client`` is the account that pays for its tokens."""
    settings = services.settings
    key = services.client_keys.find_by_account(client)
    return RequestContext(
        id=generate_id("req"),
        route=route,
        loss_report=LossReport(strict=settings.strict, max_schema_nodes=settings.max_schema_nodes),
        log_sample_rate=settings.log_sample,
        log_bodies=settings.log_bodies,
        observers=services.observers,
        account_id=client or None,
        client_name=services.client_names.find_name(client),
        # The operator chose the model of a hosted tool.
        grants=None if key is None else replace(key.grants, models=()),
        runs_hosted_tools=False,
    )


class InternalUpstreamClient:
    """Calls upstreams for hosted tools, for example to search the web or to make images."""

    def __init__(self, services: Services, calls: UpstreamCalls) -> None:
        self._services = services
        self._calls = calls

    def ask(self, request: Json, client: str, call: CallScope) -> Json:
        """Answer a Responses request, without a stream; ``client`` pays for its tokens.

        The answer may take as long as a call of a tool. Raises ForwarderError.
        """
        context = make_internal_context(self._services, RESPONSES.name, client)
        seconds = self._services.settings.tool_timeout
        with cancel_with(call, context):
            return self._ask(RESPONSES.name, request, context, seconds)

    def ask_chat(self, request: Json, client: str, call: CallScope) -> Json:
        """Answer a Chat request that makes an image, without a stream. Raises ForwarderError."""
        context = make_internal_context(self._services, CHAT.name, client)
        with cancel_with(call, context):
            return self._ask(CHAT.name, request, context, self._image_seconds)

    def send_images(
        self,
        upstream: str,
        path: str,
        content: Json | MultipartForm,
        client: str,
        call: CallScope,
        read: Callable[[PassthroughResponse], GeneratedImage],
    ) -> GeneratedImage:
        """Send a request of the images API; ``read`` reads its answer. Raises ForwarderError."""
        context = make_internal_context(self._services, "images", client)
        context.upstream = upstream
        fields = content.fields if isinstance(content, MultipartForm) else content
        context.requested_model = str(fields.get("model") or "")
        with cancel_with(call, context), self._run(context, self._image_seconds):
            target = self._services.upstreams[upstream]
            response = target.files.passthrough("POST", path, {}, context, content)
            made = read(response)
            context.usage = made.usage
            return made

    @property
    def _image_seconds(self) -> float:
        return max(self._services.settings.tool_timeout, IMAGE_SECONDS)

    def _ask(self, client: str, request: Json, context: RequestContext, seconds: float) -> Json:
        with self._run(context, seconds):
            stream = self._calls.open_stream(client, request, None, context)
            return CLIENT_PROTOCOLS[client].fold(context.convert_errors(stream))

    @contextmanager
    def _run(self, context: RequestContext, seconds: float) -> Iterator[None]:
        """Run a request, and cancel it after ``seconds``; record its failure, and close it."""
        timer = threading.Timer(seconds, context.cancel)
        timer.daemon = True
        timer.start()
        try:
            yield
        except ForwarderError as error:
            context.record_failure(error)
            if context.is_cancelled:
                raise UpstreamTimeout("The upstream did not answer in time.") from error
            raise
        except MALFORMED_EVENT_ERRORS as error:
            failure = make_malformed_event_error()
            context.record_failure(failure)
            raise failure from error
        finally:
            timer.cancel()
            context.close()


@contextmanager
def cancel_with(call: CallScope, context: RequestContext) -> Iterator[None]:
    """Cancel a request when the call of the tool is cancelled. Raises ClientDisconnected if it was
    cancelled before."""
    if call.is_cancelled:
        raise ClientDisconnected
    call.cancel_callbacks.add(context.cancel)
    try:
        yield
    finally:
        call.cancel_callbacks.discard(context.cancel)
