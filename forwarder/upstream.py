"""The only importer of the openai SDK: an upstream's calls, and its failures as our errors.

The SDK makes every request (authentication, headers, retries, time-outs, error classes) and hands
over the unread response; its typed layer is not used for bodies and events, which stay JSON.
"""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import orjson
from openai import Omit, OpenAI, Stream

from forwarder.config import UpstreamSettings
from forwarder.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamKeyRefused,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from forwarder.exchange import Exchange
from forwarder.profiles import PROFILES, Profile, mend, profile_for
from forwarder.reply import Reply, handed_on, json_object
from forwarder.routing import Route
from forwarder.translate.call import Call, Json
from forwarder.translate.call import Stream as Batches
from forwarder.translate.ending import HONEST

_PATHS = {"chat": "/chat/completions", "responses": "/responses"}


class Upstream:
    """One configured upstream: a client of its own, kept for the life of the process."""

    def __init__(
        self, settings: UpstreamSettings, transport: httpx2.BaseTransport | None, heartbeat: float
    ) -> None:
        self.settings = settings
        self.profile: Profile = profile_for(settings.provider, settings.base_url, settings.quirks)
        self._heartbeat = heartbeat
        timeout = httpx2.Timeout(settings.first_byte_timeout, connect=settings.connect_timeout)
        self._client = OpenAI(
            api_key=settings.api_key or "none",
            base_url=settings.base_url,
            timeout=timeout,
            max_retries=settings.max_retries,
            http_client=httpx2.Client(transport=transport, timeout=timeout),
            default_headers={"Accept-Encoding": "identity", **settings.headers},
            default_query=dict(settings.query),
        )

    def call(self, route: Route, client: str, exchange: Exchange) -> Call:
        """The call of this upstream that speaks ``route.protocol``.

        It connects before it returns, and is closed with ``exchange``.
        """

        def upstream_call(request: Json) -> Batches:
            body = {**request, "model": route.model}
            if not self._takes_as_is(client, route.protocol):
                body = mend(body, route.protocol, self.profile, exchange.ledger)
            reply = self._post(route.protocol, body, exchange)
            exchange.opened.callback(reply.close)
            exchange.reply_headers = reply.headers
            return HONEST[route.protocol](reply.batches(), reply.was_done)

        return upstream_call

    def _takes_as_is(self, client: str, protocol: str) -> bool:
        """A chat body of the client's own is mended only where that is known to be needed."""
        return client == protocol == "chat" and self.profile == PROFILES["generic"]

    def models(self, timeout: float) -> list[Json]:
        """What the upstream lists, as plain model objects."""
        try:
            response = self._client.get(
                "/models",
                cast_to=httpx2.Response,
                options={"timeout": timeout, "headers": self._auth(None)},
            )
        except openai.OpenAIError as error:
            raise self._ours(error) from None
        data = json_object(response.content).get("data")
        return [model for model in data or () if isinstance(model, dict) and model.get("id")]

    def _post(self, protocol: str, body: Json, exchange: Exchange) -> Reply:
        options: Any = {"headers": self._auth(exchange.client_key)}
        try:
            # With this type the SDK gives the response itself, unread; its signature says Stream.
            unread: Any = self._client.post(
                _PATHS[protocol],
                content=orjson.dumps(body),
                cast_to=httpx2.Response,
                options=options,
                stream=True,
                stream_cls=Stream[object],
            )
        except openai.OpenAIError as error:
            raise self._ours(error) from None
        except httpx2.TimeoutException:  # the body of an error stalled, which the SDK lets through
            raise self._late() from None
        except (httpx2.TransportError, OSError) as error:  # it broke, or was never wrapped
            raise self._unreachable(error) from None
        streamed = bool(body.get("stream"))
        return Reply(unread, protocol, streamed, self.settings, self._heartbeat)

    def _auth(self, client_key: str | None) -> dict[str, Any]:
        """The headers that say who asks; the SDK lets its own be left out only by the request."""
        if any(name.lower() == "authorization" for name in self.settings.headers):
            return {}  # the operator's own way
        key = client_key if self.settings.passthrough_key else self.settings.api_key
        header = self.profile.key_header
        if key and not header:
            return {"Authorization": f"Bearer {key}"}
        return {"Authorization": Omit(), **({header: key} if key and header else {})}

    # -- failures -------------------------------------------------------------------------------

    def _ours(self, error: openai.OpenAIError) -> UpstreamError:
        """The SDK's exception as ours."""
        if isinstance(error, openai.APIStatusError):
            return self._refused(error)
        if isinstance(error, openai.APITimeoutError):
            return self._late()
        if isinstance(error, openai.APIConnectionError):
            return self._unreachable(error.__cause__ or error)
        return UpstreamBroken(f"The upstream '{self.settings.name}' could not be used: {error}")

    def _refused(self, error: openai.APIStatusError) -> UpstreamError:
        status = error.status_code
        if status == 401 and not self.settings.passthrough_key:
            return UpstreamKeyRefused(
                f"The upstream '{self.settings.name}' does not accept the forwarder's key."
            )
        return UpstreamRefused(status, self._error_object(error), handed_on(error.response.headers))

    def _error_object(self, error: openai.APIStatusError) -> Json:
        body = error.body
        if isinstance(body, dict):
            inner = body.get("error", body)
            body = inner if isinstance(inner, dict) else {"message": str(inner)}
            message = body.get("message") or body.get("detail") or body.get("msg")
            return {**body, "message": self._redacted(str(message or error.status_code))}
        text = str(body or "").strip()
        if not text or text.startswith("<"):
            text = f"The upstream answered {error.status_code} without a JSON body."
        return {"message": self._redacted(text[:500])}

    def _redacted(self, text: str) -> str:
        """Providers quote keys in their errors; ours stays ours."""
        key = self.settings.api_key
        return text.replace(key, "***") if key else text

    def _late(self) -> UpstreamTimeout:
        return UpstreamTimeout(f"The upstream '{self.settings.name}' did not answer in time.")

    def _unreachable(self, error: BaseException) -> UpstreamUnreachable:
        kind = type(error).__name__
        return UpstreamUnreachable(
            f"The upstream '{self.settings.name}' cannot be reached ({kind})."
        )
