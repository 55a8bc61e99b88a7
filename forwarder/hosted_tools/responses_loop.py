"""The pipeline stage that runs hosted tools between a Responses client and any upstream.

`with_hosted_tools` wraps a Responses handler, outside of translation. Hosted tools of the request
that run here are offered to the model as functions. When the model calls them, they are run, and
the model is asked again with their outputs, until it answers or calls a tool of the client. The
client gets one response.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from forwarder.core.errors import ForwarderError, InvalidRequest, Unsupported
from forwarder.core.types import Batch, EventStream, Handler, Json
from forwarder.core.validate import INT, LIST, read_field
from forwarder.hosted_tools.history import make_function_output
from forwarder.hosted_tools.hosted_function import CallOutcome, RunningCall
from forwarder.hosted_tools.request_preparation import FirstRequest, LoopContext
from forwarder.hosted_tools.response_merger import HostedCall, ResponseMerger, Round, make_round
from forwarder.hosted_tools.tool_choice import end_hosted_calls, relax_choice
from forwarder.hosted_tools.tool_kind import ClientWatch
from forwarder.protocols.hosted_tool_names import find_hosted_name
from forwarder.protocols.types import MIN_OUTPUT_TOKENS

MAX_CALLS = 128
"""Maximum number of hosted calls of one response; ``max_tool_calls`` can only lower it."""


LIMIT_NOTE = "This call was not run, because the limit of tool calls of this response is reached."
SIZE_NOTE = "The result was left out, because the results of this response are too large."


def with_hosted_tools(handler: Handler, context: LoopContext) -> Handler:
    """Wrap a Responses handler so that the hosted tools which ``context`` allows run here."""

    def handle_request(request: Json) -> EventStream:
        if not context.is_needed(request):
            return handler(request)
        return start_response(handler, request, context)

    return handle_request


def with_unstored_rounds(handler: Handler) -> Handler:
    """Wrap the handler of an upstream that stores responses, so that it does not store the rounds.

    A round is not a response of its own: clients must not continue, read or delete it.
    """

    def handle_request(request: Json) -> EventStream:
        rest = {name: value for name, value in request.items() if name != "background"}
        return handler({**rest, "store": False})

    return handle_request


def with_extra_tools(handler: Handler, tools: list[Json]) -> Handler:
    """Wrap a Responses handler: add tools to each request that has none of their type or label."""

    def handle_request(request: Json) -> EventStream:
        own = read_field(request, "tools", LIST, "tools") or []
        known = {identify_tool(tool) for tool in own}
        added = [tool for tool in tools if identify_tool(tool) not in known]
        if not added or request.get("tool_choice") == "none":
            return handler(request)
        return handler({**request, "tools": [*own, *added]})

    return handle_request


def identify_tool(tool: Any) -> tuple[str | None, str]:
    """Return the name of a hosted tool and the label of its server."""
    label = tool.get("server_label") if isinstance(tool, dict) else None
    return find_hosted_name(tool), label if isinstance(label, str) else ""


def start_response(handler: Handler, request: Json, context: LoopContext) -> EventStream:
    """Prepare the tools and connect to the upstream; return the events of the response.

    Raises InvalidRequest, Unsupported, or the upstream's error.
    """
    max_calls = read_field(request, "max_tool_calls", INT, "max_tool_calls")
    first = FirstRequest(request, context)
    try:
        upstream_request = first.prepare()
        merger = ResponseMerger(
            first.find_function,
            context.id_source,
            first.shown_fields,
            MAX_CALLS if max_calls is None else min(max_calls, MAX_CALLS),
            first.hides_encrypted,
            first.sources,
        )
        for item, events in first.prelude:
            merger.add_prelude(item, events)
        merger.call_count = first.call_count
        try:
            stream = handler(upstream_request)
        except (InvalidRequest, Unsupported) as error:
            raise first.restore_paths(error) from None
        if not first.functions and not merger.has_prelude:
            first.close()
            return stream
        rounds = ResponseRounds(handler, context, first, merger).run(upstream_request, stream)
        next(rounds)  # start the generator, so that closing it runs its cleanup
        return rounds
    except BaseException:
        first.close()
        raise


class ResponseRounds:
    """The rounds of one response."""

    def __init__(
        self, handler: Handler, context: LoopContext, first: FirstRequest, merger: ResponseMerger
    ) -> None:
        self._handler = handler
        self._context = context
        self._first = first
        self._merger = merger
        self._watch = ClientWatch(context.token)
        self._output_limit = OutputLimit(context.max_output_bytes)

    def run(self, request: Json, stream: EventStream) -> EventStream:
        """Yield the events of the response; the first batch is empty."""
        merger, max_rounds = self._merger, self._context.max_rounds
        try:
            yield []
            for number in range(1, max_rounds + 1):
                round_ = make_round(self._context.id_source)
                yield from merger.read_round(stream, round_)
                self._context.on_round_end(merger.usage)
                outputs = yield from self._finish_round(round_)
                reason = find_stop_reason(request, merger)
                is_over = not outputs or round_.has_client_calls or needs_approval(round_)
                if is_over or reason is not None or number == max_rounds:
                    # Close first: readers of non-streamed answers stop at the terminal event.
                    self._first.close()
                    yield merger.make_terminal(round_, None if is_over else reason)
                    return
                is_last = merger.is_limit_reached or number == max_rounds - 1
                request = make_next_request(request, round_, outputs)
                if is_last:
                    request = end_hosted_calls(
                        request, self._first.callable_tools, self._first.functions
                    )
                stream = self._handler(limit_output(request, merger))
        except ForwarderError as error:
            error.usage = merger.usage
            raise
        finally:
            self._first.close()

    def _finish_round(self, round_: Round) -> Generator[Batch, None, list[Json]]:
        """Run the hosted calls of a round and send the held events; returns the calls' outputs."""
        merger = self._merger
        started: dict[int, RunningCall] = {}
        outcomes: dict[int, CallOutcome] = {}
        # If the client cannot send hosted calls back, they are not run in a round that also calls
        # the client's tools. The model repeats them when it has the client's results.
        is_kept = self._context.keeps_calls or not round_.has_client_calls
        if round_.is_complete and is_kept:
            for call in round_.calls:
                if call.mode == "run":
                    started[id(call)] = call.function.start_call(call.arguments)
        with self._watch.cancel_on_disconnect(*started.values()):
            held = merger.take_held() if merger.is_streamed else round_.calls
            for thing in held:
                if not isinstance(thing, HostedCall):
                    yield merger.number_events([thing])
                elif id(thing) in started:
                    running = started[id(thing)]
                    while not running.wait(self._context.heartbeat):
                        self._watch.check()
                        yield merger.show_progress(thing, thing.function.take_events(running))
                    self._watch.check()
                    yield merger.show_progress(thing, thing.function.take_events(running))
                    outcome = outcomes[id(thing)] = running.read_outcome(thing.item)
                    self._context.on_call_end(outcome.item)
                    yield merger.finish_call(thing, outcome)
                elif thing.mode == "run" and not is_kept:
                    yield merger.postpone_call(thing)
                elif thing.mode in ("run", "cut"):
                    yield merger.cut_call(thing)
        outputs: list[Json] = []
        for call in round_.calls:
            if id(call) in outcomes:
                output = self._output_limit.apply(outcomes[id(call)].output)
                outputs.append(make_function_output(call.call_id, output))
            elif call.mode == "skip" and round_.is_complete:
                outputs.append(make_function_output(call.call_id, LIMIT_NOTE))
        return outputs


class OutputLimit:
    """The bytes that the outputs of all hosted calls of one response may have together."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes

    def apply(self, output: str | list[Json]) -> str | list[Json]:
        """Return the output of a call, or a note if there is no room for it."""
        size = measure_output(output)
        if size > self._left:
            return SIZE_NOTE
        self._left -= size
        return output


def measure_output(output: str | list[Json]) -> int:
    """Return the approximate bytes of an output: the characters of its texts and Base64 images."""
    if isinstance(output, str):
        return len(output)
    return sum(len(part.get("text") or part.get("image_url") or "") for part in output)


def needs_approval(round_: Round) -> bool:
    return any(call.mode == "ask" for call in round_.calls)


def find_stop_reason(request: Json, merger: ResponseMerger) -> str | None:
    """Return why no further round may begin, or None. All rounds share ``max_output_tokens``."""
    limit = request.get("max_output_tokens")
    if type(limit) is int and limit - read_output_tokens(merger) < MIN_OUTPUT_TOKENS:
        return "max_output_tokens"
    return None


def limit_output(request: Json, merger: ResponseMerger) -> Json:
    """Return the request with the output tokens that are left."""
    limit = request.get("max_output_tokens")
    if type(limit) is not int:
        return request
    return {**request, "max_output_tokens": limit - read_output_tokens(merger)}


def read_output_tokens(merger: ResponseMerger) -> int:
    used = (merger.usage or {}).get("output_tokens")
    return used if type(used) is int else 0


def make_next_request(request: Json, round_: Round, outputs: list[Json]) -> Json:
    """Return the next request: the last one, its answer, and the outputs of the calls."""
    following = {**request, "input": [*request["input"], *round_.items, *outputs]}
    if "tool_choice" in request:
        following["tool_choice"] = relax_choice(request["tool_choice"])
    return following
