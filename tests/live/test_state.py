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

over_either = pytest.mark.parametrize("over", ["chat", "responses"])
Ask = Callable[..., OpenAI]


@pytest.fixture(scope="module")
def servers(
    database: str, upstream: ScriptedUpstream, tmp_path_factory: Any
) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        directory: Path = tmp_path_factory.mktemp("servers")
        given = make_settings(upstream, FORWARDER_DATABASE_URL=database, FORWARDER_SECRET_KEY="s")
        started = [{**given, "WEB_CONCURRENCY": workers} for workers in ("2", "1")]
        yield [stack.enter_context(run_forwarder(each, directory)) for each in started]


@pytest.fixture(scope="module")
def ask(servers: list[Server]) -> Iterator[Ask]:
    """A client of one server after the other, with a new connection each time."""
    turns = itertools.cycle(servers)
    with ExitStack() as stack:

        def client(key: str = "mine", strict: bool = True) -> OpenAI:
            made = OpenAI(
                base_url=next(turns).v1,
                api_key=key,
                max_retries=0,
                timeout=10,
                _strict_response_validation=strict,
            )
            return stack.enter_context(made)

        yield client


def read_sent_messages(upstream: ScriptedUpstream) -> list[tuple[str, str]]:
    """The messages of the upstream's latest request, as (role, text)."""
    body = upstream.requests[-1].body
    said = body.get("messages") or body.get("input")
    if isinstance(said, str):
        return [("user", said)]
    return [(m["role"], _join_text(m["content"])) for m in said if "role" in m]


def _join_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


# -- responses ------------------------------------------------------------------------------------


@over_either
def test_a_response_can_be_read_again_and_deleted(over: str, ask: Ask) -> None:
    made = ask().responses.create(model=f"{over}/m", input="hi", metadata={"a": "b"})
    read = ask().responses.retrieve(made.id)

    assert read.to_dict() == made.to_dict()
    assert (read.status, read.metadata) == ("completed", {"a": "b"})
    ask().responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        ask().responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        ask().responses.delete(made.id)


@over_either
def test_another_s_is_not_found(over: str, ask: Ask) -> None:
    made = ask().responses.create(model=f"{over}/m", input="hi")
    talk = ask().conversations.create()
    other = ask("another")

    for call in (
        lambda: other.responses.retrieve(made.id),
        lambda: other.responses.delete(made.id),
        lambda: other.responses.cancel(made.id),
        lambda: other.responses.input_items.list(made.id),
        lambda: other.conversations.retrieve(talk.id),
        lambda: other.conversations.items.list(talk.id),
        lambda: other.conversations.delete(talk.id),
        lambda: other.responses.create(model="m", input="hi", conversation=talk.id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    with pytest.raises(openai.BadRequestError) as refused:
        other.responses.create(model="m", input="hi", previous_response_id=made.id)
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"


@over_either
def test_a_conversation_continues_at_any_worker(
    over: str, ask: Ask, upstream: ScriptedUpstream
) -> None:
    before, said = None, [("user", "0")]
    for turn in range(1, 5):
        upstream.script(Answer(text=f"answer {turn}"))
        before = ask().responses.create(
            model=f"{over}/m",
            input=str(turn - 1),
            instructions=f"rules {turn}",
            previous_response_id=before.id if before else None,
            stream=False,
        )
        heard = [m for m in read_sent_messages(upstream) if m[0] in ("user", "assistant")]
        assert heard == said
        said += [("assistant", f"answer {turn}"), ("user", str(turn))]
    rules = [text for role, text in read_sent_messages(upstream) if role in ("system", "developer")]
    assert rules == (["rules 4"] if over == "chat" else [])

    items = ask().responses.input_items.list(before.id, order="asc", limit=3)
    assert [item.id for page in items.iter_pages() for item in page.data] == [
        item.id for item in reversed(list(ask().responses.input_items.list(before.id)))
    ]
    assert len(list(items)) == 7


@over_either
def test_the_events_of_a_stream_can_be_heard_again(over: str, ask: Ask) -> None:
    events = list(ask().responses.create(model=f"{over}/m", input="hi", stream=True))
    name = events[-1].response.id  # type: ignore[union-attr]

    again = list(ask().responses.retrieve(name, stream=True))
    assert [e.to_dict() for e in again] == [e.to_dict() for e in events]
    behind = list(ask().responses.retrieve(name, stream=True, starting_after=4))
    assert [e.to_dict() for e in behind] == [e.to_dict() for e in events[5:]]


@over_either
def test_include_shows_optional_fields(over: str, ask: Ask, upstream: ScriptedUpstream) -> None:
    upstream.script(Answer(reasoning="thinking", text="Hi."))
    sealed: Any = ["reasoning.encrypted_content"]
    image: Any = {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"}
    given: Any = [{"role": "user", "content": [image]}]
    made = ask().responses.create(model=f"{over}/m", input=given, include=sealed)
    assert made.output[0].encrypted_content  # type: ignore[union-attr]

    read: Any = ask().responses.retrieve(made.id)
    assert read.output[0].encrypted_content is None
    read = ask().responses.retrieve(made.id, include=sealed)
    assert read.to_dict() == made.to_dict()
    for asked, shown in (([], None), (sealed, made.output[0].encrypted_content)):  # type: ignore[union-attr]
        *_, last = ask().responses.retrieve(made.id, stream=True, include=asked)
        assert last.response.output[0].encrypted_content == shown  # type: ignore[union-attr]

    def part(**more: Any) -> Any:
        return next(iter(ask().responses.input_items.list(made.id, **more))).content[0]  # type: ignore[union-attr]

    assert part().image_url is None
    assert part(include=["message.input_image.image_url"]).image_url == image["image_url"]
    # The next turn sends all of it upstream, also the hidden parts.
    ask().responses.create(model=f"{over}/m", input="more", previous_response_id=made.id)
    assert "data:image/png" in json.dumps(upstream.requests[-1].body)
    with pytest.raises(openai.BadRequestError) as refused:
        ask().responses.retrieve(made.id, include=["all"])  # type: ignore[list-item]
    assert refused.value.param == "include[0]"


def test_an_answer_that_was_not_streamed_has_events_too(ask: Ask) -> None:
    made = ask().responses.create(model="chat/m", input="hi")

    with ask().responses.stream(response_id=made.id) as stream:
        assert stream.get_final_response().output_text == made.output_text


@over_either
def test_store_false_prevents_storing(over: str, ask: Ask) -> None:
    made = ask().responses.create(model=f"{over}/m", input="hi", store=False)

    with pytest.raises(openai.NotFoundError):
        ask().responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError):
        ask().responses.create(model=f"{over}/m", input="hi", previous_response_id=made.id)


def test_a_later_turn_stands_when_an_earlier_one_is_deleted(
    ask: Ask, upstream: ScriptedUpstream
) -> None:
    first = ask().responses.create(model="chat/m", input="one")
    second = ask().responses.create(model="chat/m", input="two", previous_response_id=first.id)
    ask().responses.delete(first.id)

    ask().responses.create(model="chat/m", input="three", previous_response_id=second.id)
    assert [text for role, text in read_sent_messages(upstream) if role == "user"] == [
        "one",
        "two",
        "three",
    ]
    with pytest.raises(openai.BadRequestError):
        ask().responses.create(model="chat/m", input="x", previous_response_id=first.id)


@over_either
def test_items_are_found_by_reference(over: str, ask: Ask, upstream: ScriptedUpstream) -> None:
    made = ask().responses.create(model=f"{over}/m", input="hi")
    item: Any = {"type": "item_reference", "id": made.output[0].id}
    more: Any = {"role": "user", "content": "go on"}

    ask().responses.create(model=f"{over}/m", input=[item, more])
    assert read_sent_messages(upstream) == [("assistant", made.output_text), ("user", "go on")]


def test_a_mistake_is_named_where_the_client_made_it(ask: Ask) -> None:
    first = ask().responses.create(model="chat/m", input="hi")
    wrong: Any = [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "no"}]}]

    with pytest.raises(openai.BadRequestError) as refused:
        ask().responses.create(model="chat/m", input=wrong, previous_response_id=first.id)
    assert str(refused.value.param).startswith("input[1].content")


def test_tokens_are_estimated(ask: Ask) -> None:
    first = ask().responses.create(model="chat/m", input="hello " * 400)
    short = ask().responses.input_tokens.count(model="m", input="hello")
    long = ask().responses.input_tokens.count(
        model="m", input="hello", previous_response_id=first.id
    )

    assert 0 < short.input_tokens < 20
    assert 500 < long.input_tokens < 800
    raw = ask().responses.input_tokens.with_raw_response.count(model="m", input="hello")
    assert raw.headers["x-forwarder-estimated"] == "input_tokens"


# -- conversations --------------------------------------------------------------------------------


def test_conversations_and_their_items(ask: Ask) -> None:
    first: Any = {"type": "message", "role": "user", "content": "one"}
    call: Any = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    result: Any = {"type": "function_call_output", "call_id": "c", "output": "done"}
    made = ask().conversations.create(items=[first], metadata={"a": "b"})

    assert ask().conversations.retrieve(made.id).metadata == {"a": "b"}
    assert ask().conversations.update(made.id, metadata={"c": "d"}).metadata == {"c": "d"}
    added = ask().conversations.items.create(made.id, items=[call, result])
    assert [item.type for item in added.data] == ["function_call", "function_call_output"]
    listed = list(ask().conversations.items.list(made.id, limit=2))
    assert [item.type for item in listed] == ["function_call_output", "function_call", "message"]
    item = ask().conversations.items.retrieve(listed[0].id or "", conversation_id=made.id)
    assert item == listed[0]
    ask().conversations.items.delete(listed[0].id or "", conversation_id=made.id)
    with pytest.raises(openai.NotFoundError):
        ask().conversations.items.retrieve(listed[0].id or "", conversation_id=made.id)
    assert ask().conversations.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        ask().conversations.items.list(made.id)


@over_either
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_conversation_contains_input_and_output(
    over: str, stream: bool, ask: Ask, upstream: ScriptedUpstream
) -> None:
    talk = ask().conversations.create(items=[{"role": "user", "content": "It is blue."}])
    for text in ("What is it?", "Sure?"):
        answer = ask().responses.create(
            model=f"{over}/m", input=text, conversation=talk.id, stream=stream
        )
        last = list(answer)[-1].response if stream else answer
        assert last.conversation.id == talk.id

    users = [text for role, text in read_sent_messages(upstream) if role == "user"]
    assert users == ["It is blue.", "What is it?", "Sure?"]
    items = list(ask().conversations.items.list(talk.id, order="asc"))
    assert [item.role for item in items] == ["user", "user", "assistant", "user", "assistant"]  # type: ignore[union-attr]
    # A response that continues a turn of a conversation has the history up to that turn.
    ask().responses.create(model=f"{over}/m", input="Then", previous_response_id=last.id)
    assert len([1 for role, _ in read_sent_messages(upstream) if role == "user"]) == 4


def talk_of(client: OpenAI, name: str) -> list[tuple[str, str]]:
    """The messages of a conversation, as (role, text)."""
    items: list[Any] = list(client.conversations.items.list(name, order="asc"))
    return [(item.role, item.content[0].text) for item in items]


@over_either
def test_second_of_two_concurrent_turns_is_refused(
    over: str, ask: Ask, upstream: ScriptedUpstream
) -> None:
    talk = ask().conversations.create()
    upstream.script(faults.slow_down(Answer(text="first", pieces=4), delay=0.2))
    first = ask().responses.create(
        model=f"{over}/m", input="one", conversation=talk.id, stream=True
    )
    next(iter(first))
    refusals = []
    for more in ({}, {"stream": True}, {"background": True}, {"store": False}):
        with pytest.raises(openai.BadRequestError) as refused:
            ask().responses.create(model=f"{over}/m", input="x", conversation=talk.id, **more)
        refusals.append(refused.value)
    assert {(e.code, e.param, e.type) for e in refusals} == {
        ("conversation_locked", "conversation", "invalid_request_error")
    }
    assert {e.response.headers["x-should-retry"] for e in refusals} == {"true"}
    # It is only this conversation, and only this client's.
    ask().responses.create(
        model=f"{over}/m", input="x", conversation=ask().conversations.create().id
    )

    assert list(first)[-1].type == "response.completed"
    ask().responses.create(model=f"{over}/m", input="two", conversation=talk.id)
    assert talk_of(ask(), talk.id)[:3] == [("user", "one"), ("assistant", "first"), ("user", "two")]


def test_turns_of_many_at_once_are_taken_one_by_one(
    ask: Ask, servers: list[Server], upstream: ScriptedUpstream
) -> None:
    talk = ask().conversations.create()
    upstream.requests.clear()

    def continue_conversation(number: int) -> None:
        with OpenAI(
            base_url=servers[number % 2].v1, api_key="mine", max_retries=60, timeout=60
        ) as client:
            client.responses.create(
                model="chat/m",
                input=f"question {number}",
                conversation=talk.id,
                stream=False,
                background=False,
            )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(continue_conversation, range(8)))

    said = talk_of(ask(), talk.id)
    assert [role for role, _ in said] == ["user", "assistant"] * 8
    assert sorted(text for role, text in said if role == "user") == [
        f"question {number}" for number in range(8)
    ]
    # Each of them knew all that was said before it.
    heard = [len(request.body["messages"]) for request in upstream.requests]
    assert sorted(heard) == [2 * turn + 1 for turn in range(8)]


@over_either
def test_conversation_is_unlocked_after_a_failure_or_disconnect(
    over: str, ask: Ask, upstream: ScriptedUpstream
) -> None:
    talk = ask().conversations.create()
    upstream.script(faults.refuse_with_status(400), faults.slow_down(SLOW, delay=0.3))
    with pytest.raises(openai.BadRequestError) as refused:
        ask().responses.create(model=f"{over}/m", input="fails", conversation=talk.id)
    assert refused.value.code != "conversation_locked"
    left = ask().responses.create(
        model=f"{over}/m", input="leaves", conversation=talk.id, stream=True
    )
    next(iter(left))
    left.close()

    deadline = time.monotonic() + 5
    while True:
        try:
            ask().responses.create(model=f"{over}/m", input="stays", conversation=talk.id)
            break
        except openai.BadRequestError as error:
            assert error.code == "conversation_locked"
            assert time.monotonic() < deadline  # long before any lease runs out
            time.sleep(0.1)
    assert [text for role, text in talk_of(ask(), talk.id) if role == "user"] == ["stays"]


def test_a_conversation_and_an_earlier_response_exclude_each_other(ask: Ask) -> None:
    talk = ask().conversations.create()
    with pytest.raises(openai.BadRequestError, match="Mutually exclusive"):
        ask().responses.create(
            model="m", input="hi", conversation=talk.id, previous_response_id="resp_1"
        )


# -- background work ------------------------------------------------------------------------------


def wait_until_ended(client: OpenAI, name: str) -> Any:
    """A background response when it is over."""
    deadline = time.monotonic() + 8
    while (read := client.responses.retrieve(name)).status in ("queued", "in_progress"):
        assert time.monotonic() < deadline, read
        time.sleep(0.05)
    return read


@over_either
def test_background_work_is_queued_made_and_read(
    over: str, ask: Ask, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer(text="Made in the background."))
    queued = ask().responses.create(model=f"{over}/m", input="hi", background=True)

    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    done = wait_until_ended(ask(), queued.id)
    assert (done.status, done.output_text) == ("completed", "Made in the background.")
    assert (done.id, done.background) == (queued.id, True)
    ask().responses.create(model=f"{over}/m", input="more", previous_response_id=queued.id)
    assert ("assistant", "Made in the background.") in read_sent_messages(upstream)
    # It is over, and stays so.
    assert ask().responses.cancel(queued.id).status == "completed"


@over_either
def test_background_work_with_an_empty_answer_is_completed(
    over: str, ask: Ask, upstream: ScriptedUpstream
) -> None:
    upstream.script(Answer())
    queued = ask().responses.create(model=f"{over}/m", input="hi", background=True)

    done = wait_until_ended(ask(), queued.id)
    assert (done.status, done.output_text) == ("completed", "")


SLOW = Answer(text="word " * 12, pieces=12)


@over_either
def test_the_stream_of_background_work_resumes_from_any_event(
    over: str, ask: Ask, upstream: ScriptedUpstream
) -> None:
    upstream.script(faults.slow_down(SLOW, delay=0.1))
    stream = ask().responses.create(model=f"{over}/m", input="hi", background=True, stream=True)
    begun = list(itertools.islice(stream, 5))
    stream.close()  # the client leaves; the work goes on
    name = begun[0].response.id  # type: ignore[union-attr]

    rest = list(
        ask().responses.retrieve(name, stream=True, starting_after=begun[-1].sequence_number)
    )
    events = [*begun, *rest]
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert [e.type for e in events[:3]] == [
        "response.created", "response.queued", "response.in_progress",
    ]  # fmt: skip
    assert events[-1].type == "response.completed"
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text.strip() == SLOW.text.strip() == wait_until_ended(ask(), name).output_text.strip()


@over_either
def test_background_work_is_cancelled_by_any_worker(
    over: str, ask: Ask, upstream: ScriptedUpstream
) -> None:
    for _ in range(3):  # of which some are asked of another process than works
        upstream.script(faults.slow_down(SLOW, delay=1))
        upstream.requests.clear()
        queued = ask().responses.create(model=f"{over}/m", input="hi", background=True)
        deadline = time.monotonic() + 5
        while not upstream.requests and time.monotonic() < deadline:
            time.sleep(0.02)
        assert ask().responses.cancel(queued.id).status == "cancelled"
        assert upstream.requests[-1].closed_by_client.wait(3)
        assert ask().responses.retrieve(queued.id).status == "cancelled"
        assert ask().responses.cancel(queued.id).status == "cancelled"
        events = list(ask().responses.retrieve(queued.id, stream=True))
        assert events[-1].response.status == "cancelled"  # type: ignore[union-attr]


def test_only_background_work_can_be_cancelled(ask: Ask) -> None:
    made = ask().responses.create(model="chat/m", input="hi")
    with pytest.raises(openai.BadRequestError):
        ask().responses.cancel(made.id)
    with pytest.raises(openai.BadRequestError):
        ask().responses.create(model="chat/m", input="hi", background=True, store=False)


@over_either
def test_background_work_that_fails_says_why(
    over: str, ask: Ask, upstream: ScriptedUpstream
) -> None:
    upstream.script(faults.refuse_with_status(500))
    queued = ask().responses.create(model=f"{over}/m", input="hi", background=True)

    done = wait_until_ended(ask(), queued.id)
    assert done.status == "failed"
    assert done.error.message
    with pytest.raises(openai.APIError, match=done.error.message):
        list(ask().responses.retrieve(queued.id, stream=True))


def test_a_request_that_cannot_be_served_is_refused_before_it_is_queued(ask: Ask) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask().responses.create(model="chat/m", input=[{"type": "no"}], background=True)  # type: ignore[list-item]
    assert str(refused.value.param).startswith("input[0]")


# -- chat completions -----------------------------------------------------------------------------


@over_either
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_chat_completions_are_stored_when_that_is_asked_for(
    over: str, stream: bool, ask: Ask
) -> None:
    mark = {"mark": f"{over}{stream}{time.time_ns()}"}
    question: Any = [{"role": "user", "content": "hi"}]
    given: Any = {"model": f"{over}/m", "messages": question, "metadata": mark, "stream": stream}
    ask().chat.completions.create(**given, store=False)
    answer = ask().chat.completions.create(**given, store=True)
    name = [chunk.id for chunk in answer][-1] if stream else answer.id

    read = ask().chat.completions.retrieve(name)
    assert read.choices[0].message.content == "Hello from the scripted upstream."
    assert [c.id for c in ask().chat.completions.list(metadata=mark)] == [name]
    assert name in [c.id for c in ask().chat.completions.list(model="m", order="desc", limit=3)]
    # The SDK's type of a stored message knows no role but the assistant's.
    messages = ask(strict=False).chat.completions.messages.list(name)
    assert [(m.role, m.content) for m in messages] == [("user", "hi")]
    assert ask().chat.completions.update(name, metadata={"x": "y"}).metadata == {"x": "y"}
    assert ask().chat.completions.delete(name).deleted
    with pytest.raises(openai.NotFoundError):
        ask().chat.completions.retrieve(name)


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
    given = make_settings(upstream, FORWARDER_DATABASE_URL=database, FORWARDER_SECRET_KEY="s")
    with run_forwarder(given, tmp_path) as server:
        yield server


def make_client(server: Server) -> OpenAI:
    return OpenAI(base_url=server.v1, api_key="mine", max_retries=0, timeout=40)


def test_a_turn_of_a_worker_that_died_does_not_hold_its_conversation(
    doomed_server: Server, ask: Ask, upstream: ScriptedUpstream
) -> None:
    talk = ask().conversations.create()
    upstream.script(faults.slow_down(SLOW, delay=3))

    def turn() -> None:
        with make_client(doomed_server) as client, pytest.raises(openai.APIError):
            client.responses.create(model="chat/m", input="dies", conversation=talk.id)

    with ThreadPoolExecutor(1) as pool:
        turned = pool.submit(turn)
        deadline = time.monotonic() + 5
        while not upstream.requests:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        kill_workers(doomed_server)
        turned.result()

    with pytest.raises(openai.BadRequestError, match="Another process"):
        ask().responses.create(model="chat/m", input="lives", conversation=talk.id)
    deadline = time.monotonic() + 25
    while True:
        try:
            ask().responses.create(model="chat/m", input="lives", conversation=talk.id)
            break
        except openai.BadRequestError as error:
            assert error.code == "conversation_locked"
            assert time.monotonic() < deadline
            time.sleep(0.5)
    assert [text for role, text in talk_of(ask(), talk.id) if role == "user"] == ["lives"]


def test_completed_responses_survive_a_killed_worker(
    doomed_server: Server, ask: Ask, upstream: ScriptedUpstream
) -> None:
    """Streams that are killed at any moment: each is either whole, or not there."""
    upstream.script(*[faults.slow_down(SLOW, delay=0.5)] * 3)  # of these at least one is hit
    told: set[str] = set()
    begun: set[str] = set()

    def read_stream(number: int) -> None:
        body = {"model": "chat/m", "input": str(number), "stream": True}
        asked = urllib.request.Request(  # the SDK leaves sockets open when they are reset
            f"{doomed_server.v1}/responses",
            json.dumps(body).encode(),
            {"Authorization": "Bearer mine", "Content-Type": "application/json"},
        )
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(asked, timeout=20) as answer,
        ):
            for line in answer:
                event = json.loads(line[6:]) if line.startswith(b"data: ") else {}
                if event.get("type") == "response.created":
                    begun.add(event["response"]["id"])
                if event.get("type") == "response.completed":
                    told.add(event["response"]["id"])

    with ThreadPoolExecutor(8) as pool:
        running_ = [pool.submit(read_stream, number) for number in range(120)]
        for _ in range(3):
            time.sleep(0.3)
            kill_workers(doomed_server)
        for each in running_:
            each.result()

    assert told
    assert len(told) < 120
    for name in begun:
        try:
            read = ask().responses.retrieve(name)
        except openai.NotFoundError:
            assert name not in told
        else:
            assert read.status == "completed"
            assert read.output_text == "Hello from the scripted upstream."


@pytest.mark.parametrize("kind", ["whole", "stream", "conversation", "background"])
def test_a_write_is_rolled_back_if_its_worker_dies(
    kind: str, database: str, doomed_server: Server, ask: Ask, upstream: ScriptedUpstream
) -> None:
    talk = ask().conversations.create(items=[{"role": "user", "content": "before"}])
    with make_client(doomed_server) as client:
        acknowledged = client.responses.create(model="chat/m", input="before")
    more: Any = {
        "whole": {},
        "stream": {"stream": True},
        "conversation": {"conversation": talk.id},
        "background": {"background": True},
    }[kind]
    told: list[Any] = []

    def turn() -> None:
        with (
            make_client(doomed_server) as client,
            contextlib.suppress(openai.APIError, httpx2.HTTPError),
        ):
            answer = client.responses.create(model="chat/m", input="dies", **more)
            told.extend(answer if kind == "stream" else [answer])

    writes = Writes(database)
    before = writes.count_rows()
    with ThreadPoolExecutor(1) as pool, writes.slow_down():
        turned = pool.submit(turn)
        writes.wait_for_write()
        kill_workers(doomed_server)
        turned.result()

    read = ask().responses.retrieve(acknowledged.id)
    assert (read.status, read.output_text) == (acknowledged.status, acknowledged.output_text)
    if kind == "background":
        (queued,) = told
        with make_client(doomed_server) as client:  # begun anew as soon as the lease has run out
            events = list(client.responses.retrieve(queued.id, stream=True))
        assert events[-1].type == "response.completed"
        again = ask().responses.retrieve(queued.id)
        assert (again.status, again.metadata) == ("completed", {"forwarder.attempt": "2"})
        return
    assert not any(getattr(event, "type", "") == "response.completed" for event in told)
    assert not any(getattr(answer, "status", "") == "completed" for answer in told)
    assert writes.count_rows() == before
    assert talk_of(ask(), talk.id) == [("user", "before")]
    # Later writes work as before.
    later = ask().responses.create(model="chat/m", input="after")
    assert ask().responses.retrieve(later.id).output_text == later.output_text


def test_fifty_stored_streams_at_once(servers: list[Server], ask: Ask) -> None:
    client = ask()

    def create_response(number: int) -> str:
        asked = client.responses.create(model="chat/m", input=str(number), stream=True)
        last = list(asked)[-1]
        assert last.type == "response.completed", last
        return last.response.id

    with ThreadPoolExecutor(50) as pool:
        names = list(pool.map(create_response, range(50)))
    assert len({ask().responses.retrieve(name).id for name in names}) == 50
    assert not any("database is locked" in server.log for server in servers)


def test_work_of_a_server_that_is_stopped_is_done_by_another(
    database: str, ask: Ask, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.script(faults.slow_down(SLOW, delay=3))
    given = make_settings(
        upstream,
        FORWARDER_DATABASE_URL=database,
        FORWARDER_SECRET_KEY="s",
        GUNICORN_GRACEFUL_TIMEOUT="4",
    )
    with run_forwarder(given, tmp_path) as server:
        with make_client(server) as client:
            queued = client.responses.create(model="chat/m", input="hi", background=True)
        time.sleep(1)
    done = wait_until_ended(ask(), queued.id)
    assert (done.status, done.metadata) == ("completed", {"forwarder.attempt": "2"})
