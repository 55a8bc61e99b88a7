"""Requests that the forwarder itself makes to upstreams, with the upstreams' own keys.

They go the way of clients' requests, with retries, circuit breakers and observers, but run no
hosted tools.
"""

from __future__ import annotations

import threading

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import ForwarderError, UpstreamTimeout
from forwarder.core.ids import generate_id
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.pipeline.upstream_calls import UpstreamCalls
from forwarder.protocols.fold import fold_responses
from forwarder.protocols.responses import RESPONSES
from forwarder.protocols.stream_end import MALFORMED_EVENT_ERRORS, malformed_event
from forwarder.services import Services


def new_internal_context(services: Services, route: str, client: str = "") -> RequestContext:
    """Return the context of a request; ``client`` is the account that pays for its tokens."""
    settings = services.settings
    return RequestContext(
        id=generate_id("req"),
        route=route,
        loss_report=LossReport(strict=settings.strict, max_schema_nodes=settings.max_schema_nodes),
        log_sample_rate=settings.log_sample,
        log_bodies=settings.log_bodies,
        observers=services.observers,
        account_id=client or None,
        runs_hosted_tools=False,
    )


class UpstreamAsker:
    """Asks models for hosted tools, for example to search the web."""

    def __init__(self, services: Services, calls: UpstreamCalls) -> None:
        self._services = services
        self._calls = calls

    def ask(self, request: Json, client: str) -> Json:
        """Answer a Responses request; ``client`` pays for its tokens.

        The answer may take as long as a call of a tool. Raises ForwarderError.
        """
        context = new_internal_context(self._services, RESPONSES.name, client)
        timer = threading.Timer(self._services.settings.tool_timeout, context.cancel)
        timer.daemon = True
        timer.start()
        try:
            stream = self._calls.open_stream(RESPONSES.name, request, None, context)
            return fold_responses(context.convert_errors(stream))
        except ForwarderError as error:
            context.record_failure(error)
            if context.is_cancelled:
                raise UpstreamTimeout("The upstream did not answer in time.") from error
            raise
        except MALFORMED_EVENT_ERRORS as error:
            raise malformed_event() from error
        finally:
            timer.cancel()
            context.close()
