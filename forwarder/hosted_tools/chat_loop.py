"""The pipeline stage that runs hosted tools between a Chat client and a Chat upstream.

A Chat client has no items for hosted calls: it gets the texts of all rounds as one message, with
the pages that the model cites in ``annotations``. The rounds are Chat requests, because translation
to Responses and back would lose parameters and fields that only Chat has (``logit_bias``,
``logprobs``, reasoning fields, extensions of providers). For a Responses upstream the request is
translated anyway, so the Responses loop (`responses_loop.py`) runs after the translation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any

from forwarder.core.errors import ForwarderError, InvalidRequest
from forwarder.core.translation_context import LossReport
from forwarder.core.types import Batch, Event, EventStream, Handler, Json
from forwarder.core.validate import LIST, read_field
from forwarder.hosted_tools.citations import find_citations
from forwarder.hosted_tools.hosted_function import HostedFunction, RunningCall
from forwarder.hosted_tools.request_preparation import FirstRequest, LoopContext
from forwarder.hosted_tools.responses_loop import LIMIT_NOTE, MAX_CALLS, OutputLimit
from forwarder.hosted_tools.tool_kind import ClientWatch
from forwarder.middleware.chat_chunks import close_stream, make_usage_chunk
from forwarder.middleware.usage_estimate import sum_usages
from forwarder.protocols.chat_responses_mappings import nest_annotation
from forwarder.protocols.fold import build_choice, is_complete_answer, merge_chunk
from forwarder.protocols.hosted_tool_names import find_hosted_name
from forwarder.protocols.tool_call_index import ToolCallIndex
from forwarder.protocols.types import MIN_OUTPUT_TOKENS
from forwarder.protocols.unfold import to_chunk
from forwarder.translation.chat_over_responses.images import IMAGE_CALL_TYPE, ImageDeltaWriter

_TOOL_PATH = re.compile(r"tools\[(\d{1,6})\]")
_IDENTITY_FIELDS = ("id", "created", "model")
_LIMIT_FIELDS = ("max_completion_tokens", "max_tokens")
_UNSENT_FIELDS = frozenset({"annotations", "metadata", "audio", "images"})
"""Fields of the model's message that are not sent back within an answer."""


def with_hosted_chat_tools(
    handler: Handler, tools: list[Json], context: LoopContext, loss_report: LossReport
) -> Handler:
    """Wrap a Chat handler that gives one choice, so that it runs ``tools``.

    ``tools`` are hosted tools in the form of the Responses API. Servers that cannot list their
    tools are added to the loss report.
    """

    def handle_request(request: Json) -> EventStream:
        if request.get("tool_choice") == "none":
            return handler(drop_search_options(request))
        first = open_tools(request, tools, context)
        try:
            upstream_request = make_first_request(request, first)
            for note in first.notes:
                loss_report.note("tools.hosted", note)
            stream = handler(upstream_request)
            rounds = ChatRounds(handler, context, first).run(upstream_request, stream)
            next(rounds)  # start the generator, so that closing it runs its cleanup
            return rounds
        except BaseException:
            first.close()
            raise

    return handle_request


def open_tools(request: Json, tools: list[Json], context: LoopContext) -> FirstRequest:
    """Open the hosted tools beside the client's functions. Raises InvalidRequest."""
    all_tools = [*list_named_tools(request), *tools]
    try:
        return FirstRequest({"tools": all_tools, "input": list_images(request)}, context)
    except InvalidRequest as error:
        rewrite_search_error(error, all_tools)
        raise


def with_search_parameter_names(handler: Handler) -> Handler:
    """Wrap a Responses handler for a Chat client: errors name the Chat parameter."""

    def handle_request(request: Json) -> EventStream:
        try:
            return handler(request)
        except InvalidRequest as error:
            rewrite_search_error(error, request.get("tools") or [])
            raise

    return handle_request


def rewrite_search_error(error: InvalidRequest, tools: list[Json]) -> None:
    """Change an error about the web search tool to name the Chat parameter."""
    match = _TOOL_PATH.match(error.param or "")
    if match is None or int(match[1]) >= len(tools):
        return
    if find_hosted_name(tools[int(match[1])]) == "web_search":
        error.message = error.message.replace(match[0], "web_search_options")
        error.param = _TOOL_PATH.sub("web_search_options", error.param or "", count=1)


def list_named_tools(request: Json) -> list[Json]:
    """Return the names of the client's tools, as tools: no hosted function may have one of them."""
    names = []
    for tool in read_field(request, "tools", LIST, "tools") or []:
        kind = tool.get("type") if isinstance(tool, dict) else None
        body = tool.get(kind) if isinstance(kind, str) else None
        if isinstance(body, dict) and isinstance(body.get("name"), str):
            names.append({"type": "function", "name": body["name"]})
    return names


def list_images(request: Json) -> list[Json]:
    """Return the images of the user's messages as input items, for tools that edit images."""
    items = []
    for message in read_field(request, "messages", LIST, "messages") or []:
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else []
        found = [part.get("image_url") for part in parts if isinstance(part, dict)]
        urls = [image.get("url") for image in found if isinstance(image, dict)]
        images = [{"type": "input_image", "image_url": url} for url in urls]
        if images:
            items.append({"type": "message", "role": message.get("role"), "content": images})
    return items


def make_first_request(request: Json, first: FirstRequest) -> Json:
    first.prepare()
    functions = [make_chat_tool(each.definition) for each in first.functions.values()]
    if not functions:
        return drop_search_options(request)
    return {**drop_search_options(request), "tools": [*(request.get("tools") or ()), *functions]}


def drop_search_options(request: Json) -> Json:
    return {name: value for name, value in request.items() if name != "web_search_options"}


def make_chat_tool(definition: Json) -> Json:
    names = ("name", "description", "parameters")
    return {"type": "function", "function": {name: definition[name] for name in names}}


# -- rounds -------------------------------------------------------------------------------------


class ChatRound:
    """The state of one round while it is read, with the model's calls of hosted functions.

    ``calls`` are the functions by the number of their call. ``finish`` is the chunk with the finish
    reason.
    """

    def __init__(self) -> None:
        self.calls: dict[int, HostedFunction] = {}
        self.has_client_calls = False
        self.has_failed = False
        self.has_text = False
        self.finish: Event | None = None
        self.usage: Json | None = None
        self.completion: Json = {}
        self.choices: dict[int, Json] = {}
        self._index = ToolCallIndex()
        self._client_places: dict[int, int] = {}  # number of a call -> index for the client
        self._nameless: dict[int, list[Json]] = {}  # number of a call -> its deltas without a name

    @property
    def message(self) -> Json:
        message: Json = build_choice(self.choices.get(0, {}))["message"]
        return {
            name: value
            for name, value in message.items()
            if name not in _UNSENT_FIELDS and (value is not None or name == "content")
        }

    @property
    def finish_reason(self) -> Any:
        return None if self.finish is None else self.finish["choices"][0].get("finish_reason")

    def split_calls(self, deltas: list[Json], first: FirstRequest) -> list[Json]:
        """Return the deltas of the client's calls; record calls of hosted functions in `calls`.

        The name of a call may arrive after its first delta. Until then its deltas wait.
        """
        shown = []
        for delta in deltas:
            number = self._index.find(delta)
            if number in self.calls:
                continue
            if number not in self._client_places:
                body = delta.get("function") or delta.get("custom") or {}
                waiting = self._nameless.setdefault(number, [])
                waiting.append(delta)
                if not body.get("name"):
                    continue
                del self._nameless[number]
                function = first.find_function(body["name"]) if "custom" not in delta else None
                if function is not None:
                    self.calls[number] = function
                    continue
                self.has_client_calls = True
                self._client_places[number] = len(self._client_places)
                shown += [{**each, "index": self._client_places[number]} for each in waiting]
            else:
                shown.append({**delta, "index": self._client_places[number]})
        return shown


class ChatRounds:
    """The rounds of one completion, and the parts that the client has received."""

    def __init__(self, handler: Handler, context: LoopContext, first: FirstRequest) -> None:
        self._handler = handler
        self._context = context
        self._first = first
        self._watch = ClientWatch(context.token)
        self._output_limit = OutputLimit(context.max_output_bytes)
        self._identity: Json = {}
        self._texts: list[str] = []
        self._usages: list[Json] = []
        self._call_count = 0
        self._is_later_round = False
        self._images = ImageDeltaWriter()

    def run(self, request: Json, stream: EventStream) -> EventStream:
        """Yield the chunks of the completion; the first batch is empty."""
        max_rounds = self._context.max_rounds
        client_tool_count = count_client_tools(request, self._first)
        try:
            yield []
            for number in range(1, max_rounds + 1):
                round_ = ChatRound()
                yield from self._read_round(stream, round_)
                if round_.usage is not None:
                    self._usages.append(round_.usage)
                    self._context.on_round_end(sum_usages(self._usages, prompts=True))
                # The client cannot send hosted calls back, so they are not run if the model also
                # calls the client's tools. The model repeats them when it has the client's results.
                goes_on = bool(round_.calls) and not round_.has_client_calls
                goes_on = goes_on and round_.finish is not None and not round_.has_failed
                is_cut = round_.finish_reason in ("length", "content_filter")
                limited = self._limit_output(request)
                if not goes_on or is_cut or limited is None or number == max_rounds:
                    self._first.close()
                    yield self._make_final_chunks(round_, "length" if limited is None else "stop")
                    return
                message = add_call_ids(round_.message, self._context.id_source.new_id)
                outputs = yield from self._run_calls(round_, message["tool_calls"])
                request = {
                    **request,
                    "messages": [*(request.get("messages") or ()), message, *outputs],
                }
                request = relax_choice(request, self._first, client_tool_count)
                if self._call_count >= MAX_CALLS or number == max_rounds - 1:
                    request = end_hosted_calls(request, client_tool_count)
                self._is_later_round = True
                stream = self._handler(self._limit_output(request) or request)
        except ForwarderError as error:
            if self._usages:
                error.usage = sum_usages(self._usages, prompts=True)
            raise
        finally:
            self._first.close()

    def _read_round(self, stream: EventStream, round_: ChatRound) -> EventStream:
        """Yield the client's chunks of a round, and the upstream's heartbeats."""
        try:
            for batch in stream:
                out: Batch = []
                for chunk in batch:
                    if is_complete_answer(chunk):
                        chunk = to_chunk(chunk, chunk["choices"])
                    merge_chunk(round_.completion, round_.choices, chunk)
                    out += self._read_chunk(chunk, round_)
                if out or not batch:
                    yield out
        finally:
            close_stream(stream)

    def _read_chunk(self, chunk: Event, round_: ChatRound) -> Batch:
        """Return a chunk for the client, without hosted calls, finish reason and usage."""
        if not self._identity:
            self._identity = {name: chunk[name] for name in _IDENTITY_FIELDS if name in chunk}
        shown = {**chunk, **self._identity}
        if chunk.get("usage"):
            round_.usage = chunk["usage"]
        if "usage" in shown:
            shown["usage"] = None
        if chunk.get("error"):
            round_.has_failed = True
            return [shown]
        if not chunk.get("choices"):
            return [] if chunk.get("usage") else [shown]
        choice = chunk["choices"][0]
        delta = {name: v for name, v in (choice.get("delta") or {}).items() if name != "tool_calls"}
        calls = round_.split_calls((choice.get("delta") or {}).get("tool_calls") or [], self._first)
        if calls:
            delta["tool_calls"] = calls
        if self._is_later_round:
            delta.pop("role", None)
        delta = self._join_text(delta, round_)
        if choice.get("finish_reason"):
            end = {**choice, "delta": {}, "logprobs": None}  # both are sent before
            round_.finish = {**shown, "choices": [end]}
        has_content = any(value not in (None, "") for value in delta.values())
        if not has_content and not choice.get("logprobs"):
            return []
        return [{**shown, "choices": [{**choice, "delta": delta, "finish_reason": None}]}]

    def _join_text(self, delta: Json, round_: ChatRound) -> Json:
        """Insert an empty line between the text of a round and the text of the rounds before it."""
        content = delta.get("content")
        if not isinstance(content, str) or not content:
            return delta
        if not round_.has_text and self._texts and not self._texts[-1][-1].isspace():
            content = f"\n\n{content}"
        round_.has_text = True
        self._texts.append(content)
        return {**delta, "content": content}

    def _run_calls(
        self, round_: ChatRound, calls: list[Json]
    ) -> Generator[Batch, None, list[Json]]:
        """Run the hosted calls of a round at the same time; returns the messages with outputs."""
        started: list[tuple[Json, Json, RunningCall | None]] = []
        for number, function in sorted(round_.calls.items()):
            arguments = str((calls[number].get("function") or {}).get("arguments") or "{}")
            if self._call_count < MAX_CALLS:
                self._call_count += 1
                item = function.make_item("", arguments)
                started.append((calls[number], item, function.start_call(arguments)))
            else:
                started.append((calls[number], {}, None))
        outputs = []
        running = [each for _, _, each in started if each is not None]
        with self._watch.cancel_on_disconnect(*running):
            for call, item, task in started:
                output: str | list[Json] = LIMIT_NOTE
                if task is not None:
                    while not task.wait(self._context.heartbeat):
                        self._watch.check()
                        yield []
                    self._watch.check()
                    outcome = task.read_outcome(item)
                    self._context.on_call_end(outcome.item)
                    output = self._output_limit.apply(outcome.output)
                    if outcome.item.get("type") == IMAGE_CALL_TYPE:
                        deltas = self._images.write_image(call["id"], outcome.item)
                        yield [make_chunk(round_.finish, delta) for delta in deltas]
                outputs.append(make_tool_message(str(call["id"]), output))
        return outputs

    def _limit_output(self, request: Json) -> Json | None:
        """Return the request with the output tokens that are left; ``None`` if none are."""
        used = sum(usage.get("completion_tokens") or 0 for usage in self._usages)
        limits = {name: request[name] for name in _LIMIT_FIELDS if type(request.get(name)) is int}
        if any(limit - used < MIN_OUTPUT_TOKENS for limit in limits.values()) and used:
            return None
        return {**request, **{name: limit - used for name, limit in limits.items()}}

    def _make_final_chunks(self, round_: ChatRound, reason: str) -> Batch:
        """Return the last chunks: citations, the finish reason, and the usage of all rounds."""
        if round_.has_failed or round_.finish is None:
            return []
        out: Batch = []
        choice = round_.finish["choices"][0]
        text = "".join(self._texts)
        citations = [*map(nest_annotation, find_citations(text, self._first.sources))]
        if citations:
            out.append(make_chunk(round_.finish, {"annotations": citations}))
        if round_.calls and not round_.has_client_calls and choice["finish_reason"] == "tool_calls":
            choice = {**choice, "finish_reason": reason}
        out.append({**round_.finish, "choices": [choice]})
        if self._usages:
            out.append(make_usage_chunk(round_.finish, sum_usages(self._usages, prompts=True)))
        return out


def make_chunk(end: Event | None, delta: Json) -> Event:
    """Return a chunk with a delta; ``end`` is the last chunk of the round."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    return {**(end or {}), "choices": [choice]}


def count_client_tools(request: Json, first: FirstRequest) -> int:
    """Return the number of the client's tools in the request; they come before the functions."""
    return len(request.get("tools") or ()) - len(first.functions)


def relax_choice(request: Json, first: FirstRequest, client_tool_count: int) -> Json:
    """Return the request after a hosted call, which may have fulfilled its ``tool_choice``.

    A choice that is fulfilled becomes ``auto``. The choice ``required`` stays if the client has
    tools, because the client expects a call of one of them.
    """
    choice = request.get("tool_choice")
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    is_fulfilled = not client_tool_count if choice == "required" else str(name) in first.functions
    return {**request, "tool_choice": "auto"} if is_fulfilled else request


def end_hosted_calls(request: Json, client_tool_count: int) -> Json:
    """Return a request in which the model may call only the client's tools."""
    if not client_tool_count:
        return {**request, "tool_choice": "none"}
    return {**request, "tools": request["tools"][:client_tool_count]}


def add_call_ids(message: Json, new_id: Callable[[str], str]) -> Json:
    """Return the model's message with an id for each call. Some upstreams send none."""
    calls = message["tool_calls"]
    if all(call.get("id") for call in calls):
        return message
    calls = [call if call.get("id") else {**call, "id": new_id("call")} for call in calls]
    return {**message, "tool_calls": calls}


def make_tool_message(call_id: str, output: str | list[Json]) -> Json:
    content: str | list[Json] = output if isinstance(output, str) else [*map(make_part, output)]
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def make_part(part: Json) -> Json:
    if part.get("type") == "input_image":
        return {"type": "image_url", "image_url": {"url": part["image_url"]}}
    return {"type": "text", "text": part.get("text") or ""}
