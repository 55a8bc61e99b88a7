"""The image generation in the loop."""

from __future__ import annotations

import base64
import threading
import time
from typing import Any

import pytest

from forwarder.core.body_memory import BodyMemory
from forwarder.core.data_urls import Blob
from forwarder.core.errors import InvalidRequest, UpstreamRefused
from forwarder.core.ssrf import AddressGuard
from forwarder.hosted_tools import image_generation
from forwarder.hosted_tools.image_generation import ImageCall, ImageSession, ImageTool
from forwarder.hosted_tools.image_makers import ImageFailure, ImageRequest
from forwarder.hosted_tools.kind_table import ToolResources, build_kinds
from forwarder.hosted_tools.mcp_client import McpClient
from forwarder.hosted_tools.mcp_tools import McpPolicy
from forwarder.hosted_tools.request_preparation import LoopContext
from forwarder.hosted_tools.responses_loop import with_hosted_tools
from forwarder.hosted_tools.tool_context import GeneratedImage, ToolClient
from forwarder.hosted_tools.tool_kind import ClientWatch, ToolRequest
from tests.helpers.translating import collect_events
from tests.hosted_tools.scripted_upstream import (
    ScriptedUpstream,
    check_stream,
    make_call,
    make_text_item,
)
from tests.hosted_tools.test_responses_loop import FakeClient

Json = dict[str, Any]
PNG = b"\x89PNG\r\n\x1a\n"
GENERATED = base64.b64encode(PNG + b"made").decode()
INPUT_URL = f"data:image/png;base64,{base64.b64encode(PNG + b'given').decode()}"
TOOL: Json = {"type": "image_generation"}
PROMPT_ARGUMENTS = '{"prompt":"a cat"}'
EDIT_ARGUMENTS = '{"prompt":"darker","action":"edit"}'


class Maker:
    def __init__(self) -> None:
        self.requests: list[ImageRequest] = []
        self.clients: set[str] = set()
        self.drafts = 0
        self.error: Exception | None = None

    def make_image(self, request: ImageRequest, client: str, progress: Any) -> GeneratedImage:
        self.requests.append(request)
        self.clients.add(client)
        for number in range(self.drafts):
            fields = {"quality": "low", "revised_prompt": "?"}
            progress.add_partial_image(f"draft{number}", fields)
        if self.error is not None:
            raise self.error
        return GeneratedImage(GENERATED, {"output_format": "png", "size": "1x1"})


@pytest.fixture
def maker() -> Maker:
    return Maker()


def fetch(url: str, client: str) -> Blob:
    return Blob(PNG + url.encode(), "image/png")


@pytest.fixture
def context(maker: Any) -> LoopContext:
    client = McpClient(AddressGuard())  # never used, so it starts no thread
    kinds = build_kinds(
        ToolResources(client, McpPolicy(), images=maker, fetch_image=fetch, call_seconds=1)
    )
    return LoopContext(kinds, FakeClient(), ToolClient("client"), heartbeat=0.02)


def make_request(*items: Json, tool: Json = TOOL, **more: Any) -> Json:
    question = {"type": "message", "role": "user", "content": "a cat, please"}
    request = {"model": "m", "input": [*(items or (question,))], "tools": [tool], "stream": True}
    return {**request, **more}


def make_image_call(arguments: str = PROMPT_ARGUMENTS, call_id: str = "call_1") -> Json:
    return make_call("image_generation", arguments, call_id)


def run_loop(upstream: ScriptedUpstream, context: LoopContext, request: Json) -> Json:
    return check_stream(collect_events(with_hosted_tools(upstream, context)(request)))


def make_user_message(*parts: Json) -> Json:
    return {"type": "message", "role": "user", "content": [*parts]}


def test_image_is_made_and_shown(context: LoopContext, maker: Maker) -> None:
    upstream = ScriptedUpstream([make_image_call()], [make_text_item("Here it is.")])
    events = collect_events(with_hosted_tools(upstream, context)(make_request()))
    image, _ = check_stream(events)["output"]
    assert image == {
        "id": image["id"],
        "type": "image_generation_call",
        "status": "completed",
        "result": GENERATED,
        "action": "generate",
        "revised_prompt": "a cat",
        "output_format": "png",
        "size": "1x1",
    }
    kinds = [e["type"].removeprefix("response.") for e in events if e.get("output_index") == 0]
    assert kinds == [
        "output_item.added",
        "image_generation_call.in_progress",
        "image_generation_call.generating",
        "image_generation_call.completed",
        "output_item.done",
    ]
    assert upstream.requests[1]["input"][-1]["output"] == image_generation.MADE_NOTE
    assert GENERATED not in str(upstream.requests)
    assert (maker.requests, maker.clients) == ([ImageRequest("a cat")], {"client"})


def test_whole_answer_has_the_image(context: LoopContext) -> None:
    upstream = ScriptedUpstream([make_image_call()], [make_text_item("Here.")], streamed=False)
    (event,) = collect_events(with_hosted_tools(upstream, context)(make_request(stream=False)))
    assert event["response"]["output"][0]["result"] == GENERATED


def test_drafts_are_streamed_while_the_call_runs(context: LoopContext, maker: Any) -> None:
    drafted, release = threading.Event(), threading.Event()

    def make_slowly(request: ImageRequest, client: str, progress: Any) -> GeneratedImage:
        progress.add_partial_image("draft0", {"quality": "low", "revised_prompt": "?"})
        drafted.set()
        release.wait(5)
        progress.add_partial_image("draft1", {})
        return GeneratedImage(GENERATED, {})

    maker.make_image = make_slowly
    upstream = ScriptedUpstream([make_image_call()], [make_text_item("Here.")])
    events: list[Json] = []
    for batch in with_hosted_tools(upstream, context)(
        make_request(tool={**TOOL, "partial_images": 2})
    ):
        events += batch
        if any("partial_image_index" in event for event in batch):
            release.set()  # the first draft arrived while the call was running
    check_stream(events)
    drafts = [e for e in events if e["type"] == "response.image_generation_call.partial_image"]
    assert [(e["partial_image_index"], e["partial_image_b64"]) for e in drafts] == [
        (0, "draft0"), (1, "draft1")
    ]  # fmt: skip
    assert drafts[0]["quality"] == "low"
    assert "revised_prompt" not in drafts[0]


def test_options_of_the_tool_reach_the_maker(context: LoopContext, maker: Maker) -> None:
    options = {
        "size": "1536x1024",
        "quality": "high",
        "background": "transparent",
        "output_format": "webp",
        "output_compression": 80,
        "moderation": "low",
    }
    tool = {**TOOL, **options, "partial_images": 1, "input_fidelity": None, "model": "gpt-image-2"}
    run_loop(
        ScriptedUpstream([make_image_call()], [make_text_item("Here.")]),
        context,
        make_request(tool=tool),
    )
    assert maker.requests == [ImageRequest("a cat", options=options, partial_images=1)]
    automatic = {**TOOL, "size": "auto", "quality": "auto", "background": "auto"}
    run_loop(
        ScriptedUpstream([make_image_call()], [make_text_item("Here.")]),
        context,
        make_request(tool=automatic),
    )
    assert maker.requests[1].options == {}


# -- edits ----------------------------------------------------------------------------------------


def test_images_of_the_user_are_edited(context: LoopContext, maker: Maker) -> None:
    parts = [{"type": "input_text", "text": "darker"}, {"type": "input_image", "image_url": INPUT_URL},
             {"type": "input_image", "image_url": "https://example.org/a.png"}]  # fmt: skip
    mask = {"image_url": INPUT_URL}
    upstream = ScriptedUpstream([make_image_call(EDIT_ARGUMENTS)], [make_text_item("Here.")])
    response = run_loop(
        upstream,
        context,
        make_request(make_user_message(*parts), tool={**TOOL, "input_image_mask": mask}),
    )
    (request,) = maker.requests
    assert [image.data for image in request.images] == [
        PNG + b"given", PNG + b"https://example.org/a.png"
    ]  # fmt: skip
    assert request.mask == Blob(PNG + b"given", "image/png")
    assert response["output"][0]["action"] == "edit"


def test_earlier_image_is_edited_in_the_next_turn(context: LoopContext, maker: Maker) -> None:
    first_response = run_loop(
        ScriptedUpstream([make_image_call()], [make_text_item("Here.")]), context, make_request()
    )
    upstream = ScriptedUpstream([make_image_call(EDIT_ARGUMENTS)], [make_text_item("Darker.")])
    question = {"type": "message", "role": "user", "content": "a cat, please"}
    edit_message = {"type": "message", "role": "user", "content": "darker"}
    run_loop(upstream, context, make_request(question, *first_response["output"], edit_message))
    assert [image.data for image in maker.requests[1].images] == [PNG + b"made"]
    sent_input = upstream.requests[0]["input"]
    assert [item["type"] for item in sent_input] == [
        "message", "function_call", "function_call_output", "message", "message"
    ]  # fmt: skip
    assert (sent_input[1]["call_id"], sent_input[1]["arguments"]) == (
        "call_1",
        '{"prompt":"a cat"}',
    )
    assert sent_input[2]["output"] == image_generation.EARLIER_NOTE


def test_earlier_image_with_a_call_id_of_kimi_is_converted(context: LoopContext) -> None:
    image = make_image_call(call_id="functions.image_generation:0")
    first = run_loop(ScriptedUpstream([image], [make_text_item("Here.")]), context, make_request())
    upstream = ScriptedUpstream([make_text_item("A cat.")])
    question = {"type": "message", "role": "user", "content": "a cat, please"}
    run_loop(upstream, context, make_request(question, *first["output"]))
    sent = upstream.requests[0]["input"]
    assert [item["type"] for item in sent] == [
        "message", "function_call", "function_call_output", "message"
    ]  # fmt: skip


def test_image_of_the_same_response_is_edited(context: LoopContext, maker: Maker) -> None:
    run_loop(
        ScriptedUpstream(
            [make_image_call()],
            [make_image_call(EDIT_ARGUMENTS, "call_2")],
            [make_text_item("Here.")],
        ),
        context,
        make_request(),
    )
    assert [image.data for image in maker.requests[1].images] == [PNG + b"made"]


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([{"type": "input_text", "text": "?"}], "has no image to edit"),
        ([{"type": "input_image", "file_id": "file-1"}], "only named by a file id"),
        ([{"type": "input_image", "image_url": "data:image/png,x"}], "is not of the form"),
    ],
)
def test_image_that_cannot_be_edited_is_a_failed_item(
    context: LoopContext, maker: Maker, parts: list[Json], reason: str
) -> None:
    upstream = ScriptedUpstream([make_image_call(EDIT_ARGUMENTS)], [make_text_item("Oh.")])
    response = run_loop(upstream, context, make_request(make_user_message(*parts)))
    assert response["output"][0]["status"] == "failed"
    assert reason in response["output"][0]["error"]["message"]
    assert maker.requests == []


def test_images_to_edit_are_limited_together(
    context: LoopContext, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_generation, "MAX_EDITED_BYTES", 2 * len(PNG))
    urls = [f"https://example.org/{number}" for number in range(3)]
    parts = [{"type": "input_image", "image_url": url} for url in urls]
    upstream = ScriptedUpstream([make_image_call(EDIT_ARGUMENTS)], [make_text_item("No.")])
    response = run_loop(upstream, context, make_request(make_user_message(*parts)))
    assert "too large together" in response["output"][0]["error"]["message"]
    assert not maker.requests


def test_concurrent_edits_fetch_an_image_once_and_count_its_memory(
    context: LoopContext, maker: Any
) -> None:
    fetched: list[str] = []
    memory, size, used_bytes = BodyMemory(10 * 200_000), 200_000, list[int]()
    both_running, make_image = threading.Barrier(2), maker.make_image

    def fetch_large(url: str, client: str) -> Blob:
        fetched.append(url)
        return Blob(PNG.ljust(size), "image/png")

    def make_slowly(request: ImageRequest, client: str, progress: Any) -> GeneratedImage:
        both_running.wait(5)
        used_bytes.append(memory.used)
        both_running.wait(5)
        image: GeneratedImage = make_image(request, client, progress)
        return image

    maker.make_image = make_slowly
    resources = ToolResources(
        McpClient(AddressGuard()), McpPolicy(), images=maker, fetch_image=fetch_large
    )
    context = context._replace(
        kinds=build_kinds(resources), client=ToolClient("client", body_memory=memory)
    )
    upstream = ScriptedUpstream(
        [make_image_call(EDIT_ARGUMENTS, "call_1"), make_image_call(EDIT_ARGUMENTS, "call_2")],
        [make_text_item("Here.")],
    )
    part = {"type": "input_image", "image_url": "https://example.org/a.png"}
    response = run_loop(upstream, context, make_request(make_user_message(part)))
    assert [item["status"] for item in response["output"]] == ["completed"] * 3
    assert fetched == ["https://example.org/a.png"]
    assert used_bytes == [2 * 2 * size] * 2
    assert (memory.used, memory.kept) == (0, 0)


def test_edit_without_memory_for_its_images_fails(context: LoopContext, maker: Maker) -> None:
    data = base64.b64encode(PNG.ljust(100_000)).decode()
    client = ToolClient("client", body_memory=BodyMemory(200_000))
    upstream = ScriptedUpstream([make_image_call(EDIT_ARGUMENTS)], [make_text_item("Oh.")])
    part = {"type": "input_image", "image_url": f"data:image/png;base64,{data}"}
    response = run_loop(
        upstream, context._replace(client=client), make_request(make_user_message(part))
    )
    assert "FORWARDER_MAX_BODY_MEMORY" in response["output"][0]["error"]["message"]
    assert client.body_memory.used == 0
    assert not maker.requests


def test_urls_are_not_fetched_without_a_fetcher(context: LoopContext, maker: Any) -> None:
    client = McpClient(AddressGuard())
    kinds = build_kinds(ToolResources(client, McpPolicy(), images=maker))
    part = {"type": "input_image", "image_url": "https://example.org/a.png"}
    upstream = ScriptedUpstream([make_image_call(EDIT_ARGUMENTS)], [make_text_item("Oh.")])
    response = run_loop(
        upstream, context._replace(kinds=kinds), make_request(make_user_message(part))
    )
    assert "are not fetched here" in response["output"][0]["error"]["message"]


def test_action_of_the_tool_overrides_the_model(context: LoopContext, maker: Maker) -> None:
    upstream = ScriptedUpstream([make_image_call(PROMPT_ARGUMENTS)], [make_text_item("Here.")])
    part = {"type": "input_image", "image_url": INPUT_URL}
    run_loop(
        upstream, context, make_request(make_user_message(part), tool={**TOOL, "action": "edit"})
    )
    assert len(maker.requests[0].images) == 1
    (function,) = upstream.requests[0]["tools"]
    assert list(function["parameters"]["properties"]) == ["prompt"]


# -- failures and history -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImageFailure("The image is too large."), "The image is too large."),
        (UpstreamRefused(400, {"message": "no such size"}), "no such size"),
    ],
)
def test_failure_is_reported_to_the_model(
    context: LoopContext, maker: Maker, error: Exception, reason: str
) -> None:
    maker.error = error
    upstream = ScriptedUpstream([make_image_call()], [make_text_item("Oh.")])
    item = run_loop(upstream, context, make_request())["output"][0]
    assert (item["status"], item["result"]) == ("failed", None)
    assert reason in item["error"]["message"]
    assert reason in upstream.requests[1]["input"][-1]["output"]


def test_call_without_prompt_fails(context: LoopContext) -> None:
    upstream = ScriptedUpstream([make_image_call("{}")], [make_text_item("Oh.")])
    item = run_loop(upstream, context, make_request())["output"][0]
    assert "lack 'prompt'" in item["error"]["message"]


def test_images_of_a_response_are_limited(
    context: LoopContext, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_generation, "MAX_IMAGES", 1)
    upstream = ScriptedUpstream(
        [make_image_call()],
        [make_image_call(PROMPT_ARGUMENTS, "call_2")],
        [make_text_item("Here.")],
    )
    statuses = [
        item.get("status") for item in run_loop(upstream, context, make_request())["output"]
    ]
    assert statuses == ["completed", "failed", "completed"]
    assert len(maker.requests) == 1


def test_size_of_the_images_of_a_response_is_limited(
    context: LoopContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_generation, "MAX_TOTAL_LENGTH", len(GENERATED))
    upstream = ScriptedUpstream(
        [make_image_call()],
        [make_image_call(PROMPT_ARGUMENTS, "call_2")],
        [make_text_item("Here.")],
    )
    first, second, _ = run_loop(upstream, context, make_request())["output"]
    assert (first["result"], second["result"]) == (GENERATED, None)
    assert "too large together" in second["error"]["message"]


def test_image_call_of_a_cut_response_fails(context: LoopContext, maker: Maker) -> None:
    response = run_loop(
        ScriptedUpstream(("incomplete", [make_image_call()])), context, make_request()
    )
    assert response["output"][0]["status"] == "failed"
    assert maker.requests == []


def test_foreign_images_are_passed_on(context: LoopContext) -> None:
    foreign_item = {
        "type": "image_generation_call",
        "id": "ig_1",
        "status": "completed",
        "result": GENERATED,
    }
    upstream = ScriptedUpstream([make_text_item("Nice.")])
    question = {"type": "message", "role": "user", "content": "?"}
    run_loop(upstream, context, make_request(question, foreign_item, question))
    assert upstream.requests[0]["input"][1] == foreign_item


def test_failed_image_of_an_earlier_turn_has_its_reason(context: LoopContext, maker: Maker) -> None:
    maker.error = ImageFailure("The image is too large.")
    first_response = run_loop(
        ScriptedUpstream([make_image_call()], [make_text_item("Oh.")]), context, make_request()
    )
    upstream = ScriptedUpstream([make_text_item("Sorry.")])
    question = {"type": "message", "role": "user", "content": "?"}
    run_loop(upstream, context, make_request(question, *first_response["output"], question))
    assert upstream.requests[0]["input"][2]["output"] == "The image is too large."


def test_forced_tool_is_a_forced_function(context: LoopContext) -> None:
    upstream = ScriptedUpstream([make_image_call()], [make_text_item("Here.")])
    run_loop(upstream, context, make_request(tool_choice={"type": "image_generation"}))
    assert upstream.requests[0]["tool_choice"] == {"type": "function", "name": "image_generation"}


def test_tool_and_items_are_passed_on_without_a_maker(context: LoopContext) -> None:
    kinds = build_kinds(ToolResources(McpClient(AddressGuard()), McpPolicy()))
    request = make_request()
    upstream = ScriptedUpstream([make_text_item("Hm.")])
    run_loop(upstream, context._replace(kinds=kinds), request)
    assert upstream.requests == [request]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"action": "draw"}, "action"),
        ({"size": 5}, "size"),
        ({"quality": "best"}, "quality"),
        ({"background": "red"}, "background"),
        ({"output_format": "bmp"}, "output_format"),
        ({"output_compression": 101}, "output_compression"),
        ({"partial_images": 4}, "partial_images"),
        ({"input_image_mask": {"file_id": "file-1"}}, "input_image_mask.image_url"),
        ({"input_image_mask": {"image_url": "https://x/"}}, "input_image_mask.image_url"),
    ],
)
def test_invalid_tool_is_rejected_by_name(context: LoopContext, change: Json, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        with_hosted_tools(ScriptedUpstream(), context)(make_request(tool={**TOOL, **change}))
    assert caught.value.param == f"tools[0].{param}"


def test_cancelled_call_cancels_its_request(maker: Any) -> None:
    started, cancelled = threading.Event(), threading.Event()

    def make_slowly(request: ImageRequest, client: str, progress: Any) -> GeneratedImage:
        progress.cancel_callbacks.add(cancelled.set)
        started.set()
        cancelled.wait(5)
        raise ImageFailure("cancelled")

    maker.make_image = make_slowly
    client = McpClient(AddressGuard())
    kinds = build_kinds(ToolResources(client, McpPolicy(), images=maker))
    token = FakeClient()
    stream = with_hosted_tools(
        ScriptedUpstream([make_image_call()], [make_text_item("Here.")]),
        LoopContext(kinds, token, ToolClient("client"), heartbeat=0.02),
    )(make_request())
    for _ in stream:
        if started.is_set():
            break
    stream.close()
    assert cancelled.wait(5)


def test_cancelled_call_wakes_the_waiting_loop(context: LoopContext, maker: Any) -> None:
    has_started, may_end = threading.Event(), threading.Event()

    def make_slowly(request: ImageRequest, client: str, progress: Any) -> GeneratedImage:
        has_started.set()
        may_end.wait(5)
        raise ImageFailure("late")

    maker.make_image = make_slowly
    request = ToolRequest(
        [], [], (), ToolClient(), ClientWatch(FakeClient()), context.id_source, {}, False, {}
    )
    session = ImageSession(maker, ImageTool(), request, None)
    running = ImageCall(session, "a cat", "generate", 60.0)
    assert has_started.wait(5)
    threading.Timer(0.05, running.cancel).start()
    started_at = time.monotonic()
    running.wait(2.0)
    assert time.monotonic() - started_at < 1.0
    may_end.set()
