"""Everything that is remembered, by the SDK's own calls, strictly validated, on both databases.

Two servers share one database, one of them with two workers: each call may be any process's.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from tests.fake_provider import Answer, ScriptedUpstream, faults
from tests.live.conftest import make_settings
from tests.live.server import Server, list_workers, run_forwarder
from tests.live.writes import Writes

each_upstream_api = pytest.mark.parametrize("upstream_api", ["chat", "responses"])
OpenClient = Callable[..., OpenAI]


@pytest.fixture(scope="module")
def servers(
    database: str, upstream: ScriptedUpstream, tmp_path_factory: Any
) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        directory: Path = tmp_path_factory.mktemp("servers")
        settings = make_settings(
            upstream, FORWARDER_DATABASE_URL=database, FORWARDER_SECRET_KEY="s"
        )
        started = [{**settings, "WEB_CONCURRENCY": workers} for workers in ("2", "1")]
        yield [stack.enter_context(run_forwarder(each, directory)) for each in started]


@pytest.fixture(scope="module")
def open_client(servers: list[Server]) -> Iterator[OpenClient]:
    """A client of one server after the other, with a new connection each time."""
    turns = itertools.cycle(servers)
    with ExitStack() as stack:

        def client(key: str = "mine", strict: bool = True) -> OpenAI:
            opened_client = OpenAI(
                base_url=next(turns).v1,
                api_key=key,
                max_retries=0,
                timeout=10,
                _strict_response_validation=strict,
            )
            return stack.enter_context(opened_client)

        yield client


def read_sent_messages(upstream: ScriptedUpstream) -> list[tuple[str, str]]:
    """The messages of the upstream's latest request, as (role, text)."""
    body = upstream.requests[-1].body
    messages = body.get("messages") or body.get("input")
    if isinstance(messages, str):
        return [("user", messages)]
    return [(m["role"], _join_text(m["content"])) for m in messages if "role" in m]


def _join_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


# -- responses ------------------------------------------------------------------------------------


@each_upstream_api
def test_a_response_can_be_read_again_and_deleted(
    upstream_api: str, open_client: OpenClient
) -> None:
    response = open_client().responses.create(
        model=f"{upstream_api}/m", input="hi", metadata={"a": "b"}
    )
    stored = open_client().responses.retrieve(response.id)

    assert stored.to_dict() == response.to_dict()
    assert (stored.status, stored.metadata) == ("completed", {"a": "b"})
    open_client().responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        open_client().responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError):
        open_client().responses.delete(response.id)


@each_upstream_api
def test_data_of_another_client_is_not_found(upstream_api: str, open_client: OpenClient) -> None:
    response = open_client().responses.create(model=f"{upstream_api}/m", input="hi")
    conversation = open_client().conversations.create()
    other_client = open_client("another")

    for call in (
        lambda: other_client.responses.retrieve(response.id),
        lambda: other_client.responses.delete(response.id),
        lambda: other_client.responses.cancel(response.id),
        lambda: other_client.responses.input_items.list(response.id),
        lambda: other_client.conversations.retrieve(conversation.id),
        lambda: other_client.conversations.items.list(conversation.id),
        lambda: other_client.conversations.delete(conversation.id),
        lambda: other_client.responses.create(model="m", input="hi", conversation=conversation.id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    with pytest.raises(openai.BadRequestError) as excinfo:
        other_client.responses.create(model="m", input="hi", previous_response_id=response.id)
    assert excinfo.value.code == "previous_response_not_found"
    assert excinfo.value.param == "previous_response_id"


@each_upstream_api
def test_a_conversation_continues_at_any_worker(
    upstream_api: str, open_client: OpenClient, upstream: ScriptedUpstream
) -> None:
    previous, expected = None, [("user", "0")]
    for turn in range(1, 5):
        upstream.script(Answer(text=f"answer {turn}"))
        previous = open_client().responses.create(
            model=f"{upstream_api}/m",
            input=str(turn - 1),
            instructions=f"rules {turn}",
            previous_response_id=previous.id if previous else None,
            stream=False,
        )
        received = [m for m in read_sent_messages(upstream) if m[0] in ("user", "assistant")]
        assert received == expected
        expected += [("assistant", f"answer {turn}"), ("user", str(turn))]
    rules = [text for role, text in read_sent_messages(upstream) if role in ("system", "developer")]
    assert rules == (["rules 4"] if upstream_api == "chat" else [])

    items = open_client().responses.input_items.list(previous.id, order="asc", limit=3)
    assert [item.id for page in items.iter_pages() for item in page.data] == [
        item.id for item in reversed(list(open_client().responses.input_items.list(previous.id)))
    ]
    assert len(list(items)) == 7


@each_upstream_api
def test_events_of_a_stored_stream_can_be_read_again(
    upstream_api: str, open_client: OpenClient
) -> None:
    events = list(
        open_client().responses.create(model=f"{upstream_api}/m", input="hi", stream=True)
    )
    name = events[-1].response.id  # type: ignore[union-attr]

    replayed = list(open_client().responses.retrieve(name, stream=True))
    assert [e.to_dict() for e in replayed] == [e.to_dict() for e in events]
    later_events = list(open_client().responses.retrieve(name, stream=True, starting_after=4))
    assert [e.to_dict() for e in later_events] == [e.to_dict() for e in events[5:]]


@each_upstream_api
def test_include_shows_optional_fields(
    upstream_api: str, open_client: OpenClient, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(reasoning="thinking", text="Hi."))
    encrypted_content: Any = ["reasoning.encrypted_content"]
    image: Any = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
    items: Any = [{"role": "user", "content": [image]}]
    response = open_client().responses.create(
        model=f"{upstream_api}/m", input=items, include=encrypted_content
    )
    assert response.output[0].encrypted_content  # type: ignore[union-attr]

    stored: Any = open_client().responses.retrieve(response.id)
    assert stored.output[0].encrypted_content is None
    stored = open_client().responses.retrieve(response.id, include=encrypted_content)
    assert stored.to_dict() == response.to_dict()
    for include, expected in (
        ([], None),
        (encrypted_content, response.output[0].encrypted_content),
    ):  # type: ignore[union-attr]
        *_, last_event = open_client().responses.retrieve(response.id, stream=True, include=include)
        assert last_event.response.output[0].encrypted_content == expected  # type: ignore[union-attr]

    def part(**parameters: Any) -> Any:
        return next(
            iter(open_client().responses.input_items.list(response.id, **parameters))
        ).content[0]  # type: ignore[union-attr]

    assert part().image_url is None
    assert part(include=["message.input_image.image_url"]).image_url == image["image_url"]
    # The next turn sends all of it upstream, also the hidden parts.
    open_client().responses.create(
        model=f"{upstream_api}/m", input="more", previous_response_id=response.id
    )
    assert "data:image/png" in json.dumps(upstream.requests[-1].body)
    with pytest.raises(openai.BadRequestError) as excinfo:
        open_client().responses.retrieve(response.id, include=["all"])  # type: ignore[list-item]
    assert excinfo.value.param == "include[0]"


def test_whole_answer_has_stored_events(open_client: OpenClient) -> None:
    response = open_client().responses.create(model="chat/m", input="hi")

    with open_client().responses.stream(response_id=response.id) as stream:
        assert stream.get_final_response().output_text == response.output_text


@each_upstream_api
def test_store_false_prevents_storing(upstream_api: str, open_client: OpenClient) -> None:
    response = open_client().responses.create(model=f"{upstream_api}/m", input="hi", store=False)

    with pytest.raises(openai.NotFoundError):
        open_client().responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError):
        open_client().responses.create(
            model=f"{upstream_api}/m", input="hi", previous_response_id=response.id
        )


def test_later_turn_survives_the_deletion_of_an_earlier_one(
    open_client: OpenClient, upstream: ScriptedUpstream
) -> None:
    first = open_client().responses.create(model="chat/m", input="one")
    second = open_client().responses.create(
        model="chat/m", input="two", previous_response_id=first.id
    )
    open_client().responses.delete(first.id)

    open_client().responses.create(model="chat/m", input="three", previous_response_id=second.id)
    assert [text for role, text in read_sent_messages(upstream) if role == "user"] == [
        "one",
        "two",
        "three",
    ]
    with pytest.raises(openai.BadRequestError):
        open_client().responses.create(model="chat/m", input="x", previous_response_id=first.id)


@each_upstream_api
def test_items_are_found_by_reference(
    upstream_api: str, open_client: OpenClient, upstream: ScriptedUpstream
) -> None:
    response = open_client().responses.create(model=f"{upstream_api}/m", input="hi")
    item: Any = {"type": "item_reference", "id": response.output[0].id}
    message: Any = {"role": "user", "content": "go on"}

    open_client().responses.create(model=f"{upstream_api}/m", input=[item, message])
    assert read_sent_messages(upstream) == [("assistant", response.output_text), ("user", "go on")]


def test_error_names_the_parameter_that_the_client_sent(open_client: OpenClient) -> None:
    first = open_client().responses.create(model="chat/m", input="hi")
    items: Any = [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "no"}]}]

    with pytest.raises(openai.BadRequestError) as excinfo:
        open_client().responses.create(model="chat/m", input=items, previous_response_id=first.id)
    assert str(excinfo.value.param).startswith("input[1].content")


def test_tokens_are_estimated(open_client: OpenClient) -> None:
    first = open_client().responses.create(model="chat/m", input="hello " * 400)
    count = open_client().responses.input_tokens.count(model="m", input="hello")
    count_with_history = open_client().responses.input_tokens.count(
        model="m", input="hello", previous_response_id=first.id
    )

    assert 0 < count.input_tokens < 20
    assert 500 < count_with_history.input_tokens < 800
    raw = open_client().responses.input_tokens.with_raw_response.count(model="m", input="hello")
    assert raw.headers["x-forwarder-estimated"] == "input_tokens"


# -- conversations --------------------------------------------------------------------------------


def test_conversations_and_their_items(open_client: OpenClient) -> None:
    first: Any = {"type": "message", "role": "user", "content": "one"}
    call: Any = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    result: Any = {"type": "function_call_output", "call_id": "c", "output": "done"}
    conversation = open_client().conversations.create(items=[first], metadata={"a": "b"})

    assert open_client().conversations.retrieve(conversation.id).metadata == {"a": "b"}
    assert open_client().conversations.update(conversation.id, metadata={"c": "d"}).metadata == {
        "c": "d"
    }
    new_items = open_client().conversations.items.create(conversation.id, items=[call, result])
    assert [item.type for item in new_items.data] == ["function_call", "function_call_output"]
    items = list(open_client().conversations.items.list(conversation.id, limit=2))
    assert [item.type for item in items] == ["function_call_output", "function_call", "message"]
    item = open_client().conversations.items.retrieve(
        items[0].id or "", conversation_id=conversation.id
    )
    assert item == items[0]
    open_client().conversations.items.delete(items[0].id or "", conversation_id=conversation.id)
    with pytest.raises(openai.NotFoundError):
        open_client().conversations.items.retrieve(
            items[0].id or "", conversation_id=conversation.id
        )
    assert open_client().conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        open_client().conversations.items.list(conversation.id)


@each_upstream_api
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_conversation_contains_input_and_output(
    upstream_api: str, stream: bool, open_client: OpenClient, upstream: ScriptedUpstream
) -> None:
    conversation = open_client().conversations.create(
        items=[{"role": "user", "content": "It is blue."}]
    )
    for text in ("What is it?", "Sure?"):
        answer = open_client().responses.create(
            model=f"{upstream_api}/m", input=text, conversation=conversation.id, stream=stream
        )
        response = list(answer)[-1].response if stream else answer
        assert response.conversation.id == conversation.id

    users = [text for role, text in read_sent_messages(upstream) if role == "user"]
    assert users == ["It is blue.", "What is it?", "Sure?"]
    items = list(open_client().conversations.items.list(conversation.id, order="asc"))
    assert [item.role for item in items] == ["user", "user", "assistant", "user", "assistant"]  # type: ignore[union-attr]
    # A response that continues a turn of a conversation has the history up to that turn.
    open_client().responses.create(
        model=f"{upstream_api}/m", input="Then", previous_response_id=response.id
    )
    assert len([1 for role, _ in read_sent_messages(upstream) if role == "user"]) == 4


def list_conversation_messages(client: OpenAI, name: str) -> list[tuple[str, str]]:
    """The messages of a conversation, as (role, text)."""
    items: list[Any] = list(client.conversations.items.list(name, order="asc"))
    return [(item.role, item.content[0].text) for item in items]


@each_upstream_api
def test_second_of_two_concurrent_turns_is_refused(
    upstream_api: str, open_client: OpenClient, upstream: ScriptedUpstream
) -> None:
    conversation = open_client().conversations.create()
    upstream.script(faults.slow_down(Answer(text="first", pieces=4), delay=0.2))
    first = open_client().responses.create(
        model=f"{upstream_api}/m", input="one", conversation=conversation.id, stream=True
    )
    next(iter(first))
    refusals = []
    for parameters in ({}, {"stream": True}, {"background": True}, {"store": False}):
        with pytest.raises(openai.BadRequestError) as excinfo:
            open_client().responses.create(
                model=f"{upstream_api}/m", input="x", conversation=conversation.id, **parameters
            )
        refusals.append(excinfo.value)
    assert {(e.code, e.param, e.type) for e in refusals} == {
        ("conversation_locked", "conversation", "invalid_request_error")
    }
    assert {e.response.headers["x-should-retry"] for e in refusals} == {"true"}
    # It is only this conversation, and only this client's.
    open_client().responses.create(
        model=f"{upstream_api}/m", input="x", conversation=open_client().conversations.create().id
    )

    assert list(first)[-1].type == "response.completed"
    open_client().responses.create(
        model=f"{upstream_api}/m", input="two", conversation=conversation.id
    )
    assert list_conversation_messages(open_client(), conversation.id)[:3] == [
        ("user", "one"),
        ("assistant", "first"),
        ("user", "two"),
    ]


def test_concurrent_turns_of_a_conversation_run_one_by_one(
    open_client: OpenClient, servers: list[Server], upstream: ScriptedUpstream
) -> None:
    conversation = open_client().conversations.create()
    upstream.requests.clear()

    def continue_conversation(number: int) -> None:
        with OpenAI(
            base_url=servers[number % 2].v1, api_key="mine", max_retries=60, timeout=60
        ) as client:
            client.responses.create(
                model="chat/m",
                input=f"question {number}",
                conversation=conversation.id,
                stream=False,
                background=False,
            )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(continue_conversation, range(8)))

    messages = list_conversation_messages(open_client(), conversation.id)
    assert [role for role, _ in messages] == ["user", "assistant"] * 8
    assert sorted(text for role, text in messages if role == "user") == [
        f"question {number}" for number in range(8)
    ]
    # Each request contained all earlier messages.
    message_counts = [len(request.body["messages"]) for request in upstream.requests]
    assert sorted(message_counts) == [2 * turn + 1 for turn in range(8)]


@each_upstream_api
def test_conversation_is_unlocked_after_a_failure_or_disconnect(
    upstream_api: str, open_client: OpenClient, upstream: ScriptedUpstream
) -> None:
    conversation = open_client().conversations.create()
    upstream.script(faults.refuse_with_status(400), faults.slow_down(SLOW, delay=0.3))
    with pytest.raises(openai.BadRequestError) as excinfo:
        open_client().responses.create(
            model=f"{upstream_api}/m", input="fails", conversation=conversation.id
        )
    assert excinfo.value.code != "conversation_locked"
    stream = open_client().responses.create(
        model=f"{upstream_api}/m", input="leaves", conversation=conversation.id, stream=True
    )
    next(iter(stream))
    stream.close()

    deadline = time.monotonic() + 5
    while True:
        try:
            open_client().responses.create(
                model=f"{upstream_api}/m", input="stays", conversation=conversation.id
            )
            break
        except openai.BadRequestError as error:
            assert error.code == "conversation_locked"
            assert time.monotonic() < deadline  # long before any lease runs out
            time.sleep(0.1)
    assert [
        text
        for role, text in list_conversation_messages(open_client(), conversation.id)
        if role == "user"
    ] == ["stays"]


def test_a_conversation_and_an_earlier_response_exclude_each_other(open_client: OpenClient) -> None:
    conversation = open_client().conversations.create()
    with pytest.raises(openai.BadRequestError, match="Mutually exclusive"):
        open_client().responses.create(
            model="m", input="hi", conversation=conversation.id, previous_response_id="resp_1"
        )


# -- background work ------------------------------------------------------------------------------


def wait_until_ended(client: OpenAI, name: str) -> Any:
    """A background response when it is over."""
    deadline = time.monotonic() + 8
    while (read := client.responses.retrieve(name)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline, read
        time.sleep(0.05)
    return read


@each_upstream_api
def test_background_work_is_queued_completed_and_read(
    upstream_api: str, open_client: OpenClient, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="Made in the background."))
    response = open_client().responses.create(
        model=f"{upstream_api}/m", input="hi", background=True
    )

    assert (response.status, response.background, response.output) == ("queued", True, [])
    done = wait_until_ended(open_client(), response.id)
    assert (done.status, done.output_text) == ("completed", "Made in the background.")
    assert (done.id, done.background) == (response.id, True)
    open_client().responses.create(
        model=f"{upstream_api}/m", input="more", previous_response_id=response.id
    )
    assert ("assistant", "Made in the background.") in read_sent_messages(upstream)
    # It is over, and stays so.
    assert open_client().responses.cancel(response.id).status == "completed"


@each_upstream_api
def test_background_work_with_an_empty_answer_is_completed(
    upstream_api: str, open_client: OpenClient, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer())
    response = open_client().responses.create(
        model=f"{upstream_api}/m", input="hi", background=True
    )

    done = wait_until_ended(open_client(), response.id)
    assert (done.status, done.output_text) == ("completed", "")


SLOW = Answer(text="word " * 12, pieces=12)


@each_upstream_api
def test_the_stream_of_background_work_resumes_from_any_event(
    upstream_api: str, open_client: OpenClient, upstream: ScriptedUpstream
) -> None:
    upstream.script(faults.slow_down(SLOW, delay=0.1))
    stream = open_client().responses.create(
        model=f"{upstream_api}/m", input="hi", background=True, stream=True
    )
    first_events = list(itertools.islice(stream, 5))
    stream.close()  # the client disconnects; the work continues
    name = first_events[0].response.id  # type: ignore[union-attr]

    later_events = list(
        open_client().responses.retrieve(
            name, stream=True, starting_after=first_events[-1].sequence_number
        )
    )
    events = [*first_events, *later_events]
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert [e.type for e in events[:3]] == [
        "response.created", "response.queued", "response.in_progress",
    ]  # fmt: skip
    assert events[-1].type == "response.completed"
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert (
        text.strip()
        == SLOW.text.strip()
        == wait_until_ended(open_client(), name).output_text.strip()
    )


@each_upstream_api
def test_background_work_is_cancelled_by_any_worker(
    upstream_api: str, open_client: OpenClient, upstream: ScriptedUpstream
) -> None:
    for _ in range(3):  # some reach another process than the one that works
        upstream.script(faults.slow_down(SLOW, delay=1))
        upstream.requests.clear()
        response = open_client().responses.create(
            model=f"{upstream_api}/m", input="hi", background=True
        )
        deadline = time.monotonic() + 5
        while not upstream.requests and time.monotonic() < deadline:
            time.sleep(0.02)
        assert open_client().responses.cancel(response.id).status == "cancelled"
        assert upstream.requests[-1].closed_by_client.wait(3)
        assert open_client().responses.retrieve(response.id).status == "cancelled"
        assert open_client().responses.cancel(response.id).status == "cancelled"
        events = list(open_client().responses.retrieve(response.id, stream=True))
        assert events[-1].response.status == "cancelled"  # type: ignore[union-attr]


def test_only_background_work_can_be_cancelled(open_client: OpenClient) -> None:
    response = open_client().responses.create(model="chat/m", input="hi")
    with pytest.raises(openai.BadRequestError):
        open_client().responses.cancel(response.id)
    with pytest.raises(openai.BadRequestError):
        open_client().responses.create(model="chat/m", input="hi", background=True, store=False)


@each_upstream_api
def test_failed_background_work_has_an_error(
    upstream_api: str, open_client: OpenClient, upstream: ScriptedUpstream
) -> None:
    upstream.script(faults.refuse_with_status(500))
    response = open_client().responses.create(
        model=f"{upstream_api}/m", input="hi", background=True
    )

    done = wait_until_ended(open_client(), response.id)
    assert done.status == "failed"
    assert done.error.message
    with pytest.raises(openai.APIError, match=done.error.message):
        list(open_client().responses.retrieve(response.id, stream=True))


def test_a_request_that_cannot_be_served_is_refused_before_it_is_queued(
    open_client: OpenClient,
) -> None:
    with pytest.raises(openai.BadRequestError) as excinfo:
        open_client().responses.create(model="chat/m", input=[{"type": "no"}], background=True)  # type: ignore[list-item]
    assert str(excinfo.value.param).startswith("input[0]")


# -- chat completions -----------------------------------------------------------------------------


@each_upstream_api
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_chat_completions_are_stored_on_request(
    upstream_api: str, stream: bool, open_client: OpenClient
) -> None:
    mark = {"mark": f"{upstream_api}{stream}{time.time_ns()}"}
    question: Any = [{"role": "user", "content": "hi"}]
    parameters: Any = {
        "model": f"{upstream_api}/m",
        "messages": question,
        "metadata": mark,
        "stream": stream,
    }
    open_client().chat.completions.create(**parameters, store=False)
    answer = open_client().chat.completions.create(**parameters, store=True)
    name = [chunk.id for chunk in answer][-1] if stream else answer.id

    stored = open_client().chat.completions.retrieve(name)
    assert stored.choices[0].message.content == "Hello from the scripted upstream."
    assert [c.id for c in open_client().chat.completions.list(metadata=mark)] == [name]
    assert name in [
        c.id for c in open_client().chat.completions.list(model="m", order="desc", limit=3)
    ]
    # The SDK's type of a stored message knows no role but the assistant's.
    messages = open_client(strict=False).chat.completions.messages.list(name)
    assert [(m.role, m.content) for m in messages] == [("user", "hi")]
    assert open_client().chat.completions.update(name, metadata={"x": "y"}).metadata == {"x": "y"}
    assert open_client().chat.completions.delete(name).deleted
    with pytest.raises(openai.NotFoundError):
        open_client().chat.completions.retrieve(name)


# -- when processes die ---------------------------------------------------------------------------


def kill_workers(server: Server) -> None:
    """Kill all workers, and wait until there are others that answer."""
    for pid in list_workers(server):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{server.url}/health", timeout=20).close()
            return
        time.sleep(0.05)
    raise AssertionError("no worker answers")


@pytest.fixture
def doomed_server(database: str, upstream: ScriptedUpstream, tmp_path: Path) -> Iterator[Server]:
    settings = make_settings(upstream, FORWARDER_DATABASE_URL=database, FORWARDER_SECRET_KEY="s")
    with run_forwarder(settings, tmp_path) as server:
        yield server


def make_client(server: Server) -> OpenAI:
    return OpenAI(base_url=server.v1, api_key="mine", max_retries=0, timeout=40)


def test_a_turn_of_a_worker_that_died_does_not_hold_its_conversation(
    doomed_server: Server, open_client: OpenClient, upstream: ScriptedUpstream
) -> None:
    conversation = open_client().conversations.create()
    upstream.script(faults.slow_down(SLOW, delay=3))

    def turn() -> None:
        with make_client(doomed_server) as client, pytest.raises(openai.APIError):
            client.responses.create(model="chat/m", input="dies", conversation=conversation.id)

    with ThreadPoolExecutor(1) as pool:
        turned = pool.submit(turn)
        deadline = time.monotonic() + 5
        while not upstream.requests:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        kill_workers(doomed_server)
        turned.result()

    with pytest.raises(openai.BadRequestError, match="Another process"):
        open_client().responses.create(model="chat/m", input="lives", conversation=conversation.id)
    deadline = time.monotonic() + 25
    while True:
        try:
            open_client().responses.create(
                model="chat/m", input="lives", conversation=conversation.id
            )
            break
        except openai.BadRequestError as error:
            assert error.code == "conversation_locked"
            assert time.monotonic() < deadline
            time.sleep(0.5)
    assert [
        text
        for role, text in list_conversation_messages(open_client(), conversation.id)
        if role == "user"
    ] == ["lives"]


def test_completed_responses_survive_a_killed_worker(
    doomed_server: Server, open_client: OpenClient, upstream: ScriptedUpstream
) -> None:
    """Streams that are killed at any moment: each is either whole, or not there."""
    upstream.script(*[faults.slow_down(SLOW, delay=0.5)] * 3)  # of these at least one is hit
    completed: set[str] = set()
    created: set[str] = set()

    def read_stream(number: int) -> None:
        body = {"model": "chat/m", "input": str(number), "stream": True}
        request = urllib.request.Request(  # the SDK leaves sockets open when they are reset
            f"{doomed_server.v1}/responses",
            json.dumps(body).encode(),
            {"Authorization": "Bearer mine", "Content-Type": "application/json"},
        )
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(request, timeout=20) as answer,
        ):
            for line in answer:
                event = json.loads(line[6:]) if line.startswith(b"data: ") else {}
                if event.get("type") == "response.created":
                    created.add(event["response"]["id"])
                if event.get("type") == "response.completed":
                    completed.add(event["response"]["id"])

    with ThreadPoolExecutor(8) as pool:
        turns = [pool.submit(read_stream, number) for number in range(120)]
        for _ in range(3):
            time.sleep(0.3)
            kill_workers(doomed_server)
        for each in turns:
            each.result()

    assert completed
    assert len(completed) < 120
    for name in created:
        try:
            stored = open_client().responses.retrieve(name)
        except openai.NotFoundError:
            assert name not in completed
        else:
            assert stored.status == "completed"
            assert stored.output_text == "Hello from the scripted upstream."


@pytest.mark.parametrize("kind", ["whole", "stream", "conversation", "background"])
def test_a_write_is_rolled_back_if_its_worker_dies(
    kind: str,
    database: str,
    doomed_server: Server,
    open_client: OpenClient,
    upstream: ScriptedUpstream,
) -> None:
    conversation = open_client().conversations.create(items=[{"role": "user", "content": "before"}])
    with make_client(doomed_server) as client:
        acknowledged = client.responses.create(model="chat/m", input="before")
    parameters: Any = {
        "whole": {},
        "stream": {"stream": True},
        "conversation": {"conversation": conversation.id},
        "background": {"background": True},
    }[kind]
    events_received: list[Any] = []

    def turn() -> None:
        with (
            make_client(doomed_server) as client,
            contextlib.suppress(openai.APIError, httpx2.HTTPError),
        ):
            answer = client.responses.create(model="chat/m", input="dies", **parameters)
            events_received.extend(answer if kind == "stream" else [answer])

    writes = Writes(database)
    row_counts = writes.count_rows()
    with ThreadPoolExecutor(1) as pool, writes.slow_down():
        turned = pool.submit(turn)
        writes.wait_for_write()
        kill_workers(doomed_server)
        turned.result()

    stored = open_client().responses.retrieve(acknowledged.id)
    assert (stored.status, stored.output_text) == (acknowledged.status, acknowledged.output_text)
    if kind == "background":
        (response,) = events_received
        with make_client(doomed_server) as client:  # restarted as soon as the lease has expired
            events = list(client.responses.retrieve(response.id, stream=True))
        assert events[-1].type == "response.completed"
        restarted = open_client().responses.retrieve(response.id)
        assert (restarted.status, restarted.metadata) == ("completed", {"forwarder.attempt": "2"})
        return
    assert not any(getattr(event, "type", "") == "response.completed" for event in events_received)
    assert not any(getattr(answer, "status", "") == "completed" for answer in events_received)
    assert writes.count_rows() == row_counts
    assert list_conversation_messages(open_client(), conversation.id) == [("user", "before")]
    # Later writes work as before.
    later = open_client().responses.create(model="chat/m", input="after")
    assert open_client().responses.retrieve(later.id).output_text == later.output_text


def test_fifty_stored_streams_at_once(servers: list[Server], open_client: OpenClient) -> None:
    client = open_client()

    def create_response(number: int) -> str:
        stream = client.responses.create(model="chat/m", input=str(number), stream=True)
        last_event = list(stream)[-1]
        assert last_event.type == "response.completed", last_event
        return last_event.response.id

    with ThreadPoolExecutor(50) as pool:
        names = list(pool.map(create_response, range(50)))
    assert len({open_client().responses.retrieve(name).id for name in names}) == 50
    assert not any("database is locked" in server.log for server in servers)


def test_work_of_a_server_that_is_stopped_is_done_by_another(
    database: str, open_client: OpenClient, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script(faults.slow_down(SLOW, delay=3))
    settings = make_settings(
        upstream,
        FORWARDER_DATABASE_URL=database,
        FORWARDER_SECRET_KEY="s",
        GUNICORN_GRACEFUL_TIMEOUT="4",
    )
    with run_forwarder(settings, tmp_path) as server:
        with make_client(server) as client:
            response = client.responses.create(model="chat/m", input="hi", background=True)
        time.sleep(1)
    done = wait_until_ended(open_client(), response.id)
    assert (done.status, done.metadata) == ("completed", {"forwarder.attempt": "2"})
