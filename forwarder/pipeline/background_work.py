"""Starts background work, takes it over from stopped workers, and cancels it at upstreams.

`storage.background` runs the jobs and stores their events. This module connects it with the
upstreams: how a job calls its upstream, and how another worker repeats an encrypted request.
"""

from __future__ import annotations

import logging
from functools import partial

import orjson

from forwarder.context.capture_recorder import RequestHead
from forwarder.context.client_identity import make_account_id
from forwarder.context.request_context import RequestContext
from forwarder.core.errors import ForwarderError
from forwarder.core.ids import generate_id
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Json
from forwarder.pipeline.upstream_calls import UpstreamCalls
from forwarder.protocols.responses import RESPONSES
from forwarder.services import Services
from forwarder.storage import DatabaseConversationStore
from forwarder.storage.background import BackgroundTask, TakeoverCallbacks
from forwarder.storage.background.stored_request import (
    StoredRequest,
    is_readable,
    is_repeatable,
    read_stored_request,
)
from forwarder.storage.db.background_leases import ClaimedWork, ResponseOrigin
from forwarder.storage.db.responses import StoredResponse
from forwarder.upstream.resilience.classify import describe_failure

log = logging.getLogger("forwarder.gateway")


class BackgroundWork:
    """The background work of this process."""

    def __init__(self, services: Services, calls: UpstreamCalls) -> None:
        self._services = services
        self._calls = calls

    def start(
        self, request: Json, style: str | None, context: RequestContext, work: RequestContext
    ) -> Json:
        """Start work for the client of ``context`` and return the queued response.

        ``work`` is the context of the work; it is closed when the work ends.  If the work does not
        start, the caller frees its resources.
        """
        services = self._services
        store = services.require_store()
        self._calls.find_routes(RESPONSES.name, request, context)
        services.resilience.admit_request(work)
        self.start_takeover()
        stored = StoredRequest(
            request=request,
            style=style,
            client_key=work.client_key,
            payer=work.account_id,
            address=work.get_base_url(),
            strict=work.loss_report.strict,
            client_address=work.client_address,
            client_headers=work.client_headers,
        )
        task = self._make_task(stored, services.cipher.encrypt(stored.to_json()), work)
        return store.background.start_job(store.find_owner(context), request, work, task)

    def start_takeover(self) -> None:
        """Start taking over background work of workers that have stopped."""
        store = self._services.store
        if isinstance(store, DatabaseConversationStore):
            takeover = TakeoverCallbacks(
                self._admit_work, self._can_read_request, self._restore_task, self._cancel_work
            )
            store.background.start_takeover(takeover)

    def cancel_at_upstream(self, response: StoredResponse, context: RequestContext) -> None:
        """Cancel a response at its upstream after it was cancelled or deleted here.

        A failure of the upstream is logged only.
        """
        if response.upstream_id is None or not (
            response.is_running or response.status == "cancelled"
        ):
            return
        self._cancel_origin(ResponseOrigin(response.upstream or "", response.upstream_id), context)

    def _make_task(
        self, stored: StoredRequest, sealed: str, work: RequestContext
    ) -> BackgroundTask:
        """The task for a background request; ``sealed`` is the encrypted request."""
        calls, request = self._calls, {**stored.request, "stream": True}
        return BackgroundTask(
            open_stream=partial(calls.open_stream, RESPONSES.name, request, stored.style, work),
            follow_stream=partial(calls.follow_response, request, stored.style, work),
            encrypted_request=sealed,
            is_repeatable=self._services.settings.background_attempts > 1
            and is_repeatable(request, self._services.hosted_tools.extra_tools),
            continues_without_connection=lambda: calls.find_recording_upstream(work) is not None,
        )

    # -- takeover -------------------------------------------------------------------------------

    def _admit_work(self) -> RequestContext:
        """A context for background work that is taken over; raises Overloaded."""
        work = self._make_context()
        self._services.resilience.admit_request(work)
        return work

    def _make_context(self) -> RequestContext:
        settings = self._services.settings
        return RequestContext(
            id=generate_id("req"),
            route="background",
            loss_report=LossReport(
                strict=settings.strict, max_schema_nodes=settings.max_schema_nodes
            ),
            log_sample_rate=settings.log_sample,
            log_bodies=settings.log_bodies,
            observers=self._services.observers,
            body_memory=self._services.body_memory,
        )

    def _can_read_request(self, sealed: str) -> bool:
        """Return whether this worker can decrypt a request and knows the version of its format."""
        return is_readable(self._services.cipher.decrypt(sealed))

    def _restore_task(self, work: RequestContext, claimed: ClaimedWork) -> BackgroundTask:
        """The task of work that another worker started; this worker can decrypt its request."""
        work.notify_request(lambda name: None)
        values = self._services.cipher.decrypt(claimed.request)
        stored = read_stored_request(values, claimed.response.input)
        work.client_key, work.account_id = stored.client_key, stored.payer
        work.client_address, work.client_headers = stored.client_address, stored.client_headers
        key = self._services.client_keys.find_by_identity(stored.client_key)
        work.grants = None if key is None else key.grants
        work.client_name = self._find_client_name(stored) if key is None else key.name
        work.get_base_url, work.loss_report.strict = lambda: stored.address, stored.strict
        capture = self._services.capture
        if capture is not None:
            work.recorder = capture.make_recorder(
                work, RequestHead("POST", "/v1/responses", [], [])
            )
        if work.recorder is not None:
            work.recorder.record_body(orjson.dumps(stored.request))
        return self._make_task(stored, claimed.request, work)

    def _find_client_name(self, stored: StoredRequest) -> str:
        # Not the stored payer: it was derived with the secret that was the first one at that time.
        settings = self._services.settings
        account = make_account_id(stored.client_key, stored.client_address, settings)
        return self._services.client_names.find_name(account)

    # -- cancellation ---------------------------------------------------------------------------

    def _cancel_work(self, origin: ResponseOrigin, sealed: str | None) -> None:
        """Cancel a response at its upstream with the key of an encrypted request."""
        context = self._make_context()
        values = self._services.cipher.decrypt(sealed) if sealed else None
        if values is not None:
            context.client_key = values.get("client_key")
            context.client_headers = values.get("client_headers") or {}
        self._cancel_origin(origin, context)

    def _cancel_origin(self, origin: ResponseOrigin, context: RequestContext) -> None:
        fields = {"id": context.id, "upstream": origin.upstream, "response": origin.upstream_id}
        try:
            upstream = self._services.find_upstream(origin.upstream)
            if upstream is not None:
                upstream.cancel_response(origin.upstream_id, context)
                log.info({"event": "upstream_cancelled", **fields})
        except ForwarderError as error:
            log.warning({"event": "upstream_cancel_failed", **fields, **describe_failure(error)})
