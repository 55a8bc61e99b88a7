"""Faults of upstreams. Each function returns an answer for ``ScriptedUpstream.script``.

``list_harmless`` and ``list_fatal`` return them by name, for tests of all faults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from . import changes
from .answers import Answer, Json, ModelRequest, Protocol, dumps, make_error
from .wire import RENDER, SSE_TYPE, Cut, Framing, Raw, Reply, Stall, Step, Stream, make_whole_reply

Scripted = Answer | Stream | Raw

HTML = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"

STATUSES: dict[int, tuple[str, str, str | None]] = {
    400: ("Invalid value: 'x'.", "invalid_request_error", "invalid_value"),
    401: ("Incorrect API key provided: sk-x.", "invalid_request_error", "invalid_api_key"),
    403: ("You are not allowed to sample from this model.", "invalid_request_error", None),
    404: ("The model `x` does not exist.", "invalid_request_error", "model_not_found"),
    429: ("Rate limit reached for requests.", "requests", "rate_limit_exceeded"),
    500: ("The server had an error while processing your request.", "server_error", None),
    503: ("The engine is currently overloaded.", "server_error", "overloaded"),
}
"""Status -> OpenAI's message, type and code."""


def refuse_with_status(
    code: int,
    *,
    retry_after: int | None = None,
    message: str | None = None,
    param: str | None = None,
    html: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Raw:
    """A refusal with an HTTP status; ``retry_after`` is in seconds."""
    default_message, error_type, name = STATUSES.get(code, ("Refused.", "server_error", None))
    extra_headers = dict(headers or {})
    if retry_after is not None:
        extra_headers["retry-after"] = str(retry_after)
    if html:
        return Raw(body=HTML, status=code, headers={"content-type": "text/html", **extra_headers})
    body = dumps(
        make_error(message or default_message, error_type, param=param, code=name)
    ).encode()
    return Raw(
        body=body, status=code, headers={"content-type": "application/json", **extra_headers}
    )


def answer_with_html(code: int = 200) -> Raw:
    """An HTML page of a gateway in front of the upstream."""
    return refuse_with_status(code, html=True)


def error_in_200(message: str = "insufficient balance") -> Raw:
    """An error as the body of a response with status 200."""
    body = dumps(make_error(message, "server_error", code="1008")).encode()
    return Raw(body=body, headers={"content-type": "application/json"})


def error_event(
    answer: Answer, after: int = 3, shape: Literal["nested", "flat"] = "nested"
) -> Stream:
    """An error instead of the event number ``after``; Responses adds ``response.failed``.

    A whole answer is an error with status 200, or a failed response.
    """

    def make_error_body(whole: Json, request: ModelRequest) -> Json:
        return (
            _make_server_error()
            if request.protocol == "chat"
            else _make_failed_event(request, after)["response"]
        )

    def change(events: list[Json], request: ModelRequest) -> list[Json]:
        inner = _make_server_error()["error"]
        if request.protocol == "chat":
            return [*events[:after], {"error": inner}]
        error = {"error": inner} if shape == "nested" else inner
        numbered = {**error, "type": "error", "sequence_number": after}
        return [*events[:after], numbered, _make_failed_event(request, after + 1)]

    return Stream(answer, [change], make_error_body, Framing(done=False))


def fail_response(answer: Answer, after: int = 3) -> Stream:
    """``response.failed`` with status 200, without an error event before it."""
    return Stream(
        answer,
        [lambda events, request: [*events[:after], _make_failed_event(request, after)]],
        lambda whole, request: _make_failed_event(request, after)["response"],
    )


def cut_connection(answer: Answer, after: int = 3, reset: bool = True) -> Stream:
    """The connection breaks after ``after`` frames; a negative number counts from the end."""
    return Stream(answer, ending=lambda frames: [*frames[:after], Cut(reset)])


def hang_up() -> Stream:
    """The connection breaks before the status line."""
    return Stream(before=Cut())


def ends_early(answer: Answer, after: int = 3) -> Stream:
    """The HTTP response is complete, but the answer is not."""
    return Stream(answer, ending=lambda frames: frames[:after])


def without_terminal(answer: Answer) -> Stream:
    """A stream without its terminal event, but with ``[DONE]``."""

    def change(events: list[Json], request: ModelRequest) -> list[Json]:
        if request.protocol == "responses":
            return events[:-1]
        return [event for event in events if not _has_finish_reason(event)]

    return Stream(answer, [change], framing=Framing(done=True))


def without_done(answer: Answer) -> Stream:
    """A complete chat stream without ``[DONE]``."""
    return Stream(answer, framing=Framing(done=False))


def usage_after_done(answer: Answer) -> Stream:
    """A chat stream with the usage after ``[DONE]``."""
    return Stream(answer, ending=_usage_last)


def never_answer(seconds: float = 30.0) -> Stream:
    """The upstream accepts the request and never answers."""
    return Stream(before=Stall(seconds))


def stall(answer: Answer, after: int = 0, seconds: float = 30.0) -> Stream:
    """The answer stalls after the head and ``after`` frames."""
    return Stream(answer, ending=lambda frames: [*frames[:after], Stall(seconds), *frames[after:]])


def slow_down(answer: Answer, delay: float = 0.02) -> Stream:
    """A pause of ``delay`` seconds before each frame."""
    return Stream(answer, framing=Framing(delay=delay))


def make_empty_answer() -> Answer:
    """An answer without any content."""
    return Answer()


class WholeInstead(Stream):
    """A whole JSON object although a stream was requested."""

    def reply(self, request: ModelRequest) -> Reply:
        """Return the answer as one object."""
        return make_whole_reply(RENDER[request.protocol][1](self.answer, request))


def list_harmless(answer: Answer, protocol: Protocol) -> dict[str, Scripted]:
    """Return name -> variation of the answer by a vendor. Clients must read the same answer."""
    framings = {name: Stream(answer, framing=framing) for name, framing in FRAMINGS.items()}
    if protocol == "responses":
        return {**framings, "done_after_terminal": Stream(answer, framing=Framing(done=True))}
    vendors = {change.__name__: Stream(answer, [change]) for change in CHANGES}
    if answer.calls and all(call.kind == "function" for call in answer.calls):
        vendors |= {change.__name__: Stream(answer, [change]) for change in CALL_CHANGES}
    return {
        **framings,
        **vendors,
        "without_done": without_done(answer),
        "usage_after_done": usage_after_done(answer),
    }


def list_fatal(answer: Answer, protocol: Protocol) -> dict[str, Scripted]:
    """Return name -> failure of an upstream. Clients must not take it for success."""
    common: dict[str, Scripted] = {
        "hang_up": hang_up(),
        "cut": cut_connection(answer),
        "closed": cut_connection(answer, reset=False),
        "ends_early": ends_early(answer),
        "error_event": error_event(answer),
        "error_in_200": error_in_200(),
        "html_200": answer_with_html(),
        "html_502": answer_with_html(502),
        **{f"status_{code}": refuse_with_status(code) for code in STATUSES},
    }
    if protocol == "chat":
        return common
    return {
        **common,
        "flat_error_event": error_event(answer, shape="flat"),
        "failed": fail_response(answer),
        "without_terminal": without_terminal(answer),
    }


FRAMINGS = {
    "plain": Framing(),
    "crlf": Framing(newline="\r\n"),
    "by_byte": Framing(by_byte=True),
    "at_once": Framing(at_once=True),
    "comments": Framing(comments=True),
    "no_space": Framing(space=""),
    "no_content_type": Framing(content_type=None),
    "text_plain": Framing(content_type="text/plain"),
    "bare_type": Framing(content_type=SSE_TYPE.partition(";")[0]),
}
"""Name -> a framing that clients must accept."""

CHANGES: Sequence[Callable[[list[Json], ModelRequest], list[Json]]] = (
    changes.usage_null,
    changes.usage_in_every_chunk,
    changes.usage_with_finish,
    changes.roleless,
    changes.role_everywhere,
    changes.content_null,
    changes.finish_empty,
    changes.filters_first,
    changes.message_for_delta,
)
"""Vendors' changes of any chat stream."""

CALL_CHANGES: Sequence[Callable[[list[Json], ModelRequest], list[Json]]] = (
    changes.names_blank_later,
    changes.names_repeated,
    changes.one_index,
    changes.no_index,
    changes.whole_calls,
    changes.object_arguments,
    changes.finish_stop,
)
"""Vendors' changes of a chat stream with function calls."""


def _make_server_error() -> Json:
    return make_error("The model broke down.", "server_error", code="server_error")


def _make_failed_event(request: ModelRequest, number: int) -> Json:
    response = RENDER["responses"][1](Answer(finish="failed"), request)
    return {"type": "response.failed", "sequence_number": number, "response": response}


def _has_finish_reason(chunk: Json) -> bool:
    return any(choice["finish_reason"] for choice in chunk["choices"])


def _usage_last(frames: list[bytes]) -> Sequence[Step]:
    usage = [frame for frame in frames if b'"choices": []' in frame]
    return [*(frame for frame in frames if frame not in usage), *usage]
