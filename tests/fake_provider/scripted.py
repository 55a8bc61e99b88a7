"""The scripted upstream: a real HTTP/1.1 server on loopback that speaks both protocols.

    with ScriptedUpstream() as up:
        up.script(Answer(text="Hello."), faults.status(429, retry_after=3))
        …                                    # two requests to up.url
        assert up.requests[0].body["model"] == "x"

Requests use the scripted answers in order. If none is left, the prompt selects a scenario (see
``scenarios``). Requests that a strict provider refuses get a 400 and use no scripted answer.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from . import responses, scenarios, strict, vendors
from .answers import CREATED, Answer, Json, ModelRequest, Protocol, make_error
from .faults import Scripted
from .history import Turn
from .listener import Listener, Request
from .wire import Reply, Stream, make_whole_reply

PROTOCOLS: Mapping[str, Protocol] = {"chat/completions": "chat", "responses": "responses"}

PATH = re.compile(
    r"/(?:v1|openai/v1|openai/deployments/[^/]+)/(chat/completions|responses|embeddings|models)(?:/([^/]+))?"
)
"""The served paths: those of OpenAI and Azure."""

MODELS = ("scripted", "gpt-5.5", "qwen-turbo")


@dataclass
class Recorded:
    """A request that arrived.

    ``headers`` have lower-case names; ``body`` is None without a JSON body. ``status`` is that of
    the answer. ``closed_by_client`` is set if the client disconnected before the end of the answer,
    ``finished`` when nothing more will be sent, for any reason.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any
    connection_id: int
    status: int = 0
    violations: list[strict.Violation] = field(default_factory=list)
    closed_by_client: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)


class ScriptedUpstream:
    """A provider with the answers that the test scripts.

    ``keys``: the accepted API keys; None accepts all. ``strict``: refuse what OpenAI refuses.
    ``extra_params``: further names that are accepted anywhere.
    ``refuse``: names from ``vendors.REFUSAL_RULES``, the further refusals of this vendor.
    ``port``: the port to listen on, 0 for any free one.
    """

    def __init__(
        self,
        *,
        keys: Collection[str] | None = None,
        strict: bool = True,
        extra_params: Collection[str] = (),
        refuse: Collection[str] = (),
        port: int = 0,
    ) -> None:
        self.requests: list[Recorded] = []
        self.release = threading.Event()
        self.keys = keys
        self.strict = strict
        self.extra_params = frozenset(extra_params)
        self.refuse = vendors.check_rule_names(refuse)
        self._queue: deque[Scripted] = deque()
        self._turns: dict[str, Turn] = {}
        self._lock = threading.Lock()
        self._serial = 0
        self._listener = Listener(self._answer, self.release, port)

    @property
    def url(self) -> str:
        """The base URL for a client, ``/v1`` included."""
        return f"http://127.0.0.1:{self._listener.port}/v1"

    @property
    def connections(self) -> int:
        """The number of accepted TCP connections."""
        return self._listener.connections

    @property
    def unused_count(self) -> int:
        """The number of scripted answers that no request has used yet."""
        return len(self._queue)

    def script(self, *answers: Scripted) -> None:
        """Queue answers, one for each future request."""
        self._queue.extend(answers)

    def forget(self) -> None:
        """Forget recorded requests and scripted answers."""
        self.requests.clear()
        self._queue.clear()

    def start(self) -> None:
        self._listener.start()

    def stop(self) -> None:
        """End all connections and threads; raise the error of a failed answer."""
        self._listener.stop()
        if self._listener.failures:
            raise self._listener.failures[0]

    def __enter__(self) -> ScriptedUpstream:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answer(self, request: Request) -> tuple[Reply, Recorded]:
        recorded = Recorded(
            request.method,
            request.path,
            request.query,
            request.headers,
            request.json(),
            request.connection_id,
        )
        self.requests.append(recorded)
        reply = self._reply(request, recorded)
        recorded.status = reply.status
        headers = {"x-request-id": f"req_scripted{len(self.requests):04d}", **reply.headers}
        return replace(reply, headers=headers), recorded

    def _reply(self, request: Request, recorded: Recorded) -> Reply:
        if not self._knows_key(request.headers):
            body = make_error("Incorrect API key provided.", code="invalid_api_key")
            return make_whole_reply(body, 401)
        match = PATH.fullmatch(request.path)
        if match is None or (match[2] and match[1] != "models"):
            return make_whole_reply(
                make_error(f"Invalid URL ({request.method} {request.path})"), 404
            )
        if match[1] == "models":
            return self._models(request.method, match[2])
        if match[1] == "embeddings":
            return _make_embeddings(request.method, recorded.body)
        return self._generate(request.method, PROTOCOLS[match[1]], recorded)

    def _knows_key(self, headers: Mapping[str, str]) -> bool:
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        return self.keys is None or bool({bearer, headers.get("api-key")} & set(self.keys))

    def _models(self, method: str, name: str | None) -> Reply:
        if method != "GET":
            return _not_allowed(method)
        models = [_make_model(model_name) for model_name in MODELS]
        if name is None:
            return make_whole_reply({"object": "list", "data": models})
        if name not in MODELS:
            message = f"The model '{name}' does not exist"
            return make_whole_reply(make_error(message, param="model", code="model_not_found"), 404)
        return make_whole_reply(_make_model(name))

    def _generate(self, method: str, protocol: Protocol, recorded: Recorded) -> Reply:
        if method != "POST":
            return _not_allowed(method)
        if not isinstance(recorded.body, dict):
            return make_whole_reply(
                make_error("We could not parse the JSON body of your request."), 400
            )
        recorded.violations = self._violations(protocol, recorded.body)
        if recorded.violations:
            violation = recorded.violations[0]
            return make_whole_reply(
                make_error(str(violation), param=violation.param, code=violation.code), 400
            )
        return self._make_answer(protocol, recorded.body)

    def _violations(self, protocol: Protocol, body: Json) -> list[strict.Violation]:
        violations: list[strict.Violation] = []
        if self.strict and protocol == "chat":
            violations = strict.check_chat(body, self.extra_params)
        elif self.strict:
            violations = strict.check_responses(body, self.extra_params, self._turns)
        return violations or vendors.list_refusals(protocol, body, self.refuse)

    def _make_answer(self, protocol: Protocol, body: Json) -> Reply:
        with self._lock:
            self._serial += 1
            request = ModelRequest(protocol, body, self._serial)
            earlier = self._turns.get(str(body.get("previous_response_id")))
            scripted = self._queue.popleft() if self._queue else None
            answer = scripted or scenarios.answer(request, earlier)
            stream = Stream(answer) if isinstance(answer, Answer) else answer
            if protocol == "responses" and isinstance(stream, Stream):
                self._remember(request, stream.answer, earlier)
        return stream.reply(request)

    def _remember(self, request: ModelRequest, answer: Answer, earlier: Turn | None) -> None:
        if request.body.get("store") is not False:
            output = responses.make_output(answer, request)
            self._turns[request.id("resp_")] = Turn.after(
                earlier, request.body.get("input"), output
            )


def _make_embeddings(method: str, body: Any) -> Reply:
    """Return the vector ``[3, length]`` for each text."""
    if method != "POST":
        return _not_allowed(method)
    text_input = body.get("input") if isinstance(body, dict) else None
    texts = [text_input] if isinstance(text_input, str) else text_input
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        return make_whole_reply(
            make_error("'input' must be a string or an array of strings.", param="input"), 400
        )
    data = [
        {"object": "embedding", "index": i, "embedding": [3.0, float(len(text))]}
        for i, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 2 * len(texts), "total_tokens": 2 * len(texts)}
    return make_whole_reply(
        {"object": "list", "model": body["model"], "data": data, "usage": usage}
    )


def _not_allowed(method: str) -> Reply:
    return make_whole_reply(make_error(f"Not allowed to {method} on this path."), 405)


def _make_model(name: str) -> Json:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "scripted"}
