"""Images, files and log probabilities of a Responses upstream, as a chat client's SDK gets them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from tests.helpers.cases import Case
from tests.helpers.loopback import Peer, run_server
from tests.helpers.loopback import Server as Loopback
from tests.live.conftest import Serve
from tests.live.server import Server
from tests.live.talk import http

Json = dict[str, Any]

ROWS = b"a,b\n1,2\n"


def events_of(name: str) -> bytes:
    """The stream of a case, as its upstream sends it."""
    events = Case(name, "chat_over_responses").read("upstream.jsonl")
    return b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)


def serve_provider(peer: Peer) -> None:
    """Gives the answer of the case that the model is called by, and has every file."""
    while request := peer.request():
        if request.startswith(b"GET "):
            peer.answer(ROWS, b"Content-Type: text/csv")
        else:
            case = json.loads(request.partition(b"\r\n\r\n")[2])["model"]
            peer.answer(events_of(case), b"Content-Type: text/event-stream")


@pytest.fixture(scope="module")
def provider() -> Iterator[Loopback]:
    with run_server(serve_provider) as server:
        yield server


@pytest.fixture(scope="module")
def forwarder(serve: Serve, provider: Loopback) -> Server:
    base = f"http://127.0.0.1:{provider.port}/v1"
    return serve({"RESPONSES_BASE_URL": base, "RESPONSES_API_KEY": "sk-up"})


@pytest.fixture
def sdk(forwarder: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=forwarder.v1, api_key="x", max_retries=0) as client:
        yield client


def get_choice(sdk: OpenAI, case: str, stream: bool, **parameters: Any) -> Json:
    """The choice that the SDK gives, or that it puts together from the chunks."""
    body: Json = {"model": case, "messages": [{"role": "user", "content": "hi"}], **parameters}
    if not stream:
        return sdk.chat.completions.create(**body).choices[0].to_dict()  # type: ignore[no-any-return]
    with sdk.chat.completions.stream(**body) as chunks:
        return chunks.get_final_completion().choices[0].to_dict()


def read_expected_choice(case: str) -> Json:
    answer: Json = Case(case, "chat_over_responses").read("answer.json")["choices"][0]
    return answer


either = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


@either
def test_images_arrive_and_go_back(sdk: OpenAI, provider: Loopback, stream: bool) -> None:
    message = get_choice(sdk, "images_in_answers", stream, modalities=["text", "image"])["message"]
    assert message["images"] == read_expected_choice("images_in_answers")["message"]["images"]

    messages = [
        {"role": "user", "content": "Draw."},
        message,
        {"role": "user", "content": "Another."},
    ]
    get_choice(sdk, "only_an_image", stream, messages=messages)
    items = json.loads(provider.requests[-1].partition(b"\r\n\r\n")[2])["input"]
    image_ids = [item["id"] for item in items if item["type"] == "image_generation_call"]
    assert image_ids == [image["id"] for image in message["images"]]


@either
def test_a_file_can_be_fetched_by_its_link(sdk: OpenAI, forwarder: Server, stream: bool) -> None:
    files = get_choice(sdk, "files_in_answers", stream)["message"]["metadata"]["files"]
    links = [file["url"] for file in files if file.get("file_id")]
    assert len(links) == 3
    for link in links:
        assert link.startswith(forwarder.v1)
        assert http.get(link).content == ROWS


@either
@pytest.mark.parametrize("case", ["logprobs", "logprobs_at_the_end"])
def test_log_probabilities_arrive(sdk: OpenAI, case: str, stream: bool) -> None:
    logprobs = get_choice(sdk, case, stream, logprobs=True)["logprobs"]
    assert logprobs["content"] == read_expected_choice(case)["logprobs"]["content"]


@either
def test_log_probabilities_of_cut_text_are_left_out(sdk: OpenAI, stream: bool) -> None:
    choice = get_choice(sdk, "logprobs", stream, logprobs=True, stop="!")
    tokens = [entry["token"] for entry in choice["logprobs"]["content"]]
    assert "".join(tokens) == choice["message"]["content"] == "Grüß Gott"
