"""The input and the line fields of the chat and generate endpoints."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.translation.ollama_over_chat.endpoints import CHAT_ENDPOINT, GENERATE_ENDPOINT
from tests.helpers.check_cases import check_each
from tests.helpers.ollama import translate_ollama_request
from tests.helpers.translating import make_translator_context

PNG = "iVBORw0KGgo="


def test_prompt_becomes_a_message_after_the_system_message() -> None:
    chat_request = translate_ollama_request(
        form=GENERATE_ENDPOINT, prompt="Why?", system="Be brief."
    ).upstream_request
    messages = [(message["role"], message["content"]) for message in chat_request["messages"]]
    assert messages == [("system", "Be brief."), ("user", "Why?")]


def test_prompt_carries_its_images() -> None:
    [message] = translate_ollama_request(
        form=GENERATE_ENDPOINT, prompt="What?", images=[PNG]
    ).upstream_request["messages"]
    assert [part["type"] for part in message["content"]] == ["text", "image_url"]


def test_invalid_image_error_names_the_parameter() -> None:
    with pytest.raises(InvalidRequest) as caught:
        translate_ollama_request(form=GENERATE_ENDPOINT, images=["?"])
    assert caught.value.param == "images[0]"


@check_each(
    ("name", "value"),
    [("context", [1, 2]), ("suffix", "end"), ("template", "{{ .Prompt }}"), ("raw", True),
     ("_debug_render_only", True)],
)  # fmt: skip
def test_unsupported_parameters_are_refused(name: str, value: Any) -> None:
    with pytest.raises(Unsupported, match=name) as caught:
        translate_ollama_request(form=GENERATE_ENDPOINT, **{name: value})
    assert caught.value.status == 400


def test_parameters_of_the_other_endpoint_are_dropped() -> None:
    chat_context, generate_context = make_translator_context(), make_translator_context()
    translate_ollama_request(chat_context, CHAT_ENDPOINT, prompt="Hi.")
    translate_ollama_request(
        generate_context, GENERATE_ENDPOINT, messages=[{"role": "user", "content": "Hi."}]
    )
    assert (set(chat_context.loss_report.losses), set(generate_context.loss_report.losses)) == (
        {"prompt"},
        {"messages"},
    )


def test_line_has_its_text_in_the_endpoints_field() -> None:
    delta = {"content": "x", "thinking": "y"}
    assert CHAT_ENDPOINT.make_line_body(delta) == {
        "message": {"role": "assistant", "content": "x", "thinking": "y"}
    }
    assert CHAT_ENDPOINT.make_line_body({}) == {"message": {"role": "assistant", "content": ""}}
    assert GENERATE_ENDPOINT.make_line_body(delta) == {"response": "x", "thinking": "y"}
    assert GENERATE_ENDPOINT.make_line_body({}) == {"response": ""}
