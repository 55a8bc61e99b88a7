"""Ten conversations through every profile, each to an upstream that is as strict as its provider.

The forwarder runs in this process; the upstream is a real server.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.providers import PROFILES
from tests.fake_provider import Answer, Call, ScriptedUpstream, Violation, faults
from tests.fake_provider.answers import Protocol
from tests.fake_provider.wire import Stream

Json = dict[str, Any]

KEY = "sk-upstream-secret"

OPENAI_ONLY = {"metadata", "store", "verbosity", "prompt_cache_key", "service_tier"}
"""What nearly all but OpenAI refuse."""

STRICTNESS: dict[str, set[str]] = {
    "generic": {"developer_role", "max_completion_tokens", "custom_tools"},
    "openai": {"max_tokens"},
    "azure": {"max_tokens"},
    "dashscope": {*OPENAI_ONLY, "developer_role", "max_completion_tokens", "forced_tool_choice",
                  "json_schema", "reasoning_effort", "custom_tools"},
    "deepseek": {*OPENAI_ONLY, "developer_role", "max_completion_tokens", "forced_tool_choice",
                 "json_schema", "reasoning_missing", "custom_tools"},
    "moonshot": {*OPENAI_ONLY, "max_completion_tokens", "forced_tool_choice", "moonshot_schemas",
                 "reasoning_missing", "reasoning_effort", "custom_tools"},
    "zhipu": {*OPENAI_ONLY, "developer_role", "max_completion_tokens", "forced_tool_choice",
              "json_schema", "reasoning_effort", "custom_tools"},
    "minimax": {*OPENAI_ONLY, "developer_role", "later_system", "max_completion_tokens",
                "json_schema", "reasoning_effort", "custom_tools"},
    "mistral": {*OPENAI_ONLY, "developer_role", "max_completion_tokens", "stream_options",
                "message_extra_fields", "strict_functions", "reasoning_effort", "user",
                "mistral_schemas", "long_call_ids", "custom_tools"},
    "groq": {*OPENAI_ONLY, "max_tokens", "custom_tools"},
    "gemini": {*OPENAI_ONLY, "developer_role", "max_completion_tokens", "gemini_schemas",
               "custom_tools"},
    "vertex": {*OPENAI_ONLY, "developer_role", "max_completion_tokens", "custom_tools"},
    "litellm": {"max_tokens"},
    "xai": {*OPENAI_ONLY, "max_completion_tokens", "custom_tools"},
    "copilot": {"metadata", "service_tier", "custom_tools"},
    "chatgpt": {"metadata"},
    "openrouter": {"reasoning_effort", "custom_tools"},
    "nvidia": {*OPENAI_ONLY, "parallel_tool_calls", "reasoning_effort", "custom_tools"},
    "vllm": {*OPENAI_ONLY, "later_system", "reasoning_effort", "custom_tools"},
    "sglang": {*OPENAI_ONLY, "later_system", "reasoning_effort", "custom_tools"},
    "llamacpp": {*OPENAI_ONLY, "later_system", "reasoning_effort", "custom_tools"},
    "ollama": {*OPENAI_ONLY, "max_completion_tokens", "custom_tools"},
    "lmstudio": {*OPENAI_ONLY, "max_completion_tokens", "reasoning_effort", "custom_tools"},
}  # fmt: skip
"""Provider -> the rules of the scripted upstream that describe its refusals."""

MENDED_BY_ALL = {"developer_role", "max_completion_tokens", "custom_tools"}
"""What even the careful profile sees to."""

OWN_WORDS = {"thinking", "enable_thinking", "reasoning_split", "chat_template_kwargs", "reasoning"}

LONG_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "city": {"$ref": "#/$defs/city", "description": "Which."},
        "when": {"type": "string", "anyOf": [{"const": "now"}, {"format": "date"}]},
        "box": {"type": "array", "items": {"type": "number"}},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"city": {"type": "string", "minLength": 1}},
}
LOOK = {"type": "function", "name": "look", "parameters": LONG_SCHEMA}
STRICT_LOOK = {**LOOK, "strict": False}
PATCH = {"type": "custom", "name": "patch", "description": "Apply a patch."}


def make_user_message(text: str) -> Json:
    return {"role": "user", "content": text}


def make_call_turn(number: int, city: str, name: str = "look") -> list[Json]:
    """A call and its output."""
    call_id = f"call_{number:024d}"
    arguments = json.dumps({"city": city})
    return [
        {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments},
        {"type": "function_call_output", "call_id": call_id, "output": "rain"},
    ]


TWO = [make_call_turn(1, "Bern"), make_call_turn(2, "Basel")]

CONVERSATIONS: dict[str, Json] = {
    "text": {"input": "Say hello."},
    "a developer, and a system message later": {
        "instructions": "Be brief.",
        "input": [make_user_message("hi"), {"role": "system", "content": "Be kind."}, make_user_message("Who are you?")],
    },
    "tools": {"input": "How is Bern?", "tools": [STRICT_LOOK], "parallel_tool_calls": True},
    "a forced tool": {"input": "How is Bern?", "tools": [LOOK], "tool_choice": "required"},
    "a freeform tool": {"input": "Mend it.", "tools": [PATCH]},
    "results of calls at once": {
        "input": [make_user_message("Compare."), TWO[0][0], TWO[1][0], TWO[0][1], TWO[1][1]],
        "tools": [LOOK],
    },
    "reasoning in a loop of tools": {
        "input": [
            make_user_message("How is Bern?"),
            {"type": "reasoning", "id": "rs_1",
             "summary": [{"type": "summary_text", "text": "I look."}]},
            *make_call_turn(1, "Bern"),
        ],
        "tools": [LOOK],
        "reasoning": {"effort": "medium"},
    },
    "an answer in a schema": {
        "input": "Name a city.",
        "text": {"format": {"type": "json_schema", "name": "city", "schema": {
            "type": "object", "properties": {"city": {"type": "string"}},
            "required": ["city"], "additionalProperties": False}}},
    },
    "a limit": {"input": "Say hello.", "max_output_tokens": 50, "temperature": 0.5},
    "what concerns OpenAI": {
        "input": "Say hello.", "metadata": {"a": "b"}, "store": False, "user": "u",
        "prompt_cache_key": "k", "service_tier": "auto", "text": {"verbosity": "low"},
    },
}  # fmt: skip

SAID: dict[str, Answer] = {
    "a forced tool": Answer(calls=[Call("look", {"city": "Bern"})]),
    "an answer in a schema": Answer(text='{"city": "Bern"}'),
}


class Mistral(ScriptedUpstream):
    """Demands of tools are spelled ``any`` there."""

    def _violations(self, protocol: Protocol, body: Json) -> list[Violation]:
        tool_choice = body.get("tool_choice")
        checked_body = {**body, "tool_choice": "required"} if tool_choice == "any" else body
        return super()._violations(protocol, checked_body)


@pytest.fixture(scope="module", params=STRICTNESS)
def provider(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def upstream(provider: str) -> Iterator[ScriptedUpstream]:
    """An upstream as strict as the provider."""
    kind = Mistral if provider == "mistral" else ScriptedUpstream
    with kind(refuse=STRICTNESS[provider], extra_params=OWN_WORDS) as scripted:
        yield scripted


@pytest.fixture(scope="module", autouse=True)
def _one_transport() -> Iterator[None]:
    """For all forwarders, since making one takes longer than most tests."""
    with httpx2.HTTPTransport() as transport, pytest.MonkeyPatch.context() as patch:
        patch.setattr("forwarder.services.select_transport", lambda *_: transport)
        yield


def forwarder(upstream: ScriptedUpstream, provider: str, **quirks: Any) -> FlaskClient:
    """A forwarder in this process, in front of the upstream."""
    environment = {
        "CHAT_BASE_URL": upstream.url,
        "CHAT_API_KEY": KEY,
        "CHAT_PROVIDER": provider,
        "CHAT_QUIRKS": json.dumps(quirks),
    }
    return create_app(Settings.from_env(environment)).test_client()


def collect_refusals(client: FlaskClient, upstream: ScriptedUpstream) -> dict[str, str]:
    """Conversation -> the upstream's refusal, for refused conversations."""
    refusals = {}
    for name, request in CONVERSATIONS.items():
        request_count = len(upstream.requests)
        upstream.script(SAID.get(name, Answer(text="Hello.")))
        answer = client.post("/v1/responses", json={"model": "m", **request, "stream": True})
        if answer.status_code != 200 or "response.completed" not in answer.text:
            refusals[name] = answer.text[:300]
        elif len(upstream.requests) != request_count + 1:
            refusals[name] = str(upstream.requests[request_count].violations)
        answer.close()
    return refusals


def test_every_provider_has_a_simulated_upstream() -> None:
    assert STRICTNESS.keys() == PROFILES.keys() - {"demo"}
    assert len(CONVERSATIONS) == 10


def test_with_its_profile_no_conversation_is_refused(
    provider: str, upstream: ScriptedUpstream
) -> None:
    assert collect_refusals(forwarder(upstream, provider, learn=False), upstream) == {}


def test_generic_profile_suffices_only_for_generic_providers(
    provider: str, upstream: ScriptedUpstream
) -> None:
    refusals = collect_refusals(forwarder(upstream, "generic", learn=False), upstream)

    assert (refusals == {}) == (STRICTNESS[provider] <= MENDED_BY_ALL)


# -- learning -----------------------------------------------------------------------------------


def send_chat_request(client: FlaskClient, **parameters: Any) -> TestResponse:
    """The answer to a chat request that passes through."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **parameters}
    return client.post("/v1/chat/completions", json=body)


def read_learned_quirks(client: FlaskClient) -> Json:
    """The learned quirks that the forwarder shows."""
    quirks: Json = client.get("/ready?verbose").get_json()["upstreams"]["chat"]["learned"]
    return quirks


def test_quirk_is_learned_from_one_refusal() -> None:
    with ScriptedUpstream(refuse={"metadata"}) as scripted:
        client = forwarder(scripted, "generic")
        assert send_chat_request(client, metadata={"a": "b"}).status_code == 200
        assert [r.status for r in scripted.requests] == [400, 200]
        assert (
            send_chat_request(client, metadata={"a": "b"}).headers["X-Forwarder-Dropped"]
            == "metadata"
        )
        assert [r.status for r in scripted.requests] == [400, 200, 200]
        assert read_learned_quirks(client)["m"]["drop"] == ["metadata"]


def test_passthrough_changes_only_learned_parameters() -> None:
    with ScriptedUpstream(refuse={"developer_role"}) as scripted:
        client = forwarder(scripted, "generic")
        parts = [{"type": "text", "text": "a"}]
        body = [{"role": "developer", "content": parts}, {"role": "user", "content": parts}]
        assert send_chat_request(client, messages=body, max_completion_tokens=5).status_code == 200
        sent = scripted.requests[-1].body
        assert [m["role"] for m in sent["messages"]] == ["system", "user"]
        assert all(m["content"] == parts for m in sent["messages"])
        assert sent["max_completion_tokens"] == 5


def test_ineffective_quirk_is_not_learned() -> None:
    error_message = "Unknown parameter: 'metadata'."
    with ScriptedUpstream() as scripted:
        scripted.script(*[faults.refuse_with_status(400, message=error_message)] * 2)
        client = forwarder(scripted, "generic")
        answer = send_chat_request(client, metadata={"a": "b"})
        assert answer.status_code == 400
        assert answer.get_json()["error"]["message"] == error_message
        assert len(scripted.requests) == 2
        assert read_learned_quirks(client) == {}


OTHER = {"reasoning_effort": "high", "service_tier": "default"}


def test_invalid_value_affects_only_its_client() -> None:
    with ScriptedUpstream() as scripted:
        client = forwarder(scripted, "generic")
        assert send_chat_request(client, reasoning_effort="lots").status_code == 400
        assert len(scripted.requests) == 1
        assert send_chat_request(client, **OTHER).status_code == 200
        assert {**scripted.requests[-1].body, **OTHER} == scripted.requests[-1].body


def test_a_refused_value_is_dropped_and_other_values_are_sent() -> None:
    error_message = "Invalid service_tier argument: flex is not supported for this model."
    with ScriptedUpstream() as scripted:
        scripted.script(faults.refuse_with_status(400, message=error_message, param="service_tier"))
        client = forwarder(scripted, "generic")
        answer = send_chat_request(client, service_tier="flex")
        assert answer.status_code == 200
        assert answer.headers["X-Forwarder-Dropped"] == "service_tier"
        assert read_learned_quirks(client) == {}
        assert send_chat_request(client, **OTHER).status_code == 200
        assert {**scripted.requests[-1].body, **OTHER} == scripted.requests[-1].body


@pytest.mark.parametrize("status", [429, 500, 503])
def test_quirk_is_not_learned_if_the_retry_fails(status: int) -> None:
    with ScriptedUpstream() as scripted:
        refusal = faults.refuse_with_status(400, message="Unknown parameter: 'metadata'.")
        scripted.script(refusal, *[faults.refuse_with_status(status)] * 5)
        client = forwarder(scripted, "generic")
        assert send_chat_request(client, metadata={"a": "b"}).status_code == status
        assert [r.status for r in scripted.requests][:2] == [400, status]
        assert read_learned_quirks(client) == {}


def test_each_request_learns_one_quirk() -> None:
    with ScriptedUpstream(refuse={"metadata", "user"}) as scripted:
        client = forwarder(scripted, "generic")
        assert send_chat_request(client, metadata={"a": "b"}, user="u").status_code == 400
        assert len(scripted.requests) == 2
        assert send_chat_request(client, metadata={"a": "b"}, user="u").status_code == 200
        assert len(scripted.requests) == 4
        assert read_learned_quirks(client)["m"]["drop"] == ["metadata", "user"]


@pytest.mark.parametrize(("client", "path"), [("chat", "chat/completions"), ("responses",) * 2])
@pytest.mark.parametrize(("provider", "stream_flags"), [("generic", [False, True, True]),
                                                 ("dashscope", [True, True])])  # fmt: skip
def test_whole_answers_are_folded_from_streams(
    client: str, path: str, provider: str, stream_flags: list[bool]
) -> None:
    with ScriptedUpstream(refuse={"whole_answers"}) as scripted:
        test_client = forwarder(scripted, provider)
        for _ in range(2):
            scripted.script(Answer(reasoning="Hm.", text="Hello.", pieces=3))
            body = {"model": "qwq-32b", "messages": [{"role": "user", "content": "hi"}]}
            body = body if client == "chat" else {"model": "qwq-32b", "input": "hi"}
            answer = test_client.post(f"/v1/{path}", json=body)
            assert answer.status_code == 200
            assert "Hm." in answer.text
            assert "Hello." in answer.text
            assert answer.get_json()["usage"]["total_tokens"] == 30
        assert [request.body["stream"] for request in scripted.requests] == stream_flags


def test_strict_mode_refuses_parameters_of_learned_quirks() -> None:
    with ScriptedUpstream(refuse={"metadata"}) as scripted:
        client = forwarder(scripted, "generic")
        body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "metadata": {}}
        answer = client.post(
            "/v1/chat/completions", json=body, headers={"X-Forwarder-Strict": "true"}
        )
        assert answer.status_code == 400
        assert answer.get_json()["error"]["param"] == "metadata"


def test_refusal_reaches_the_client_if_learning_is_disabled() -> None:
    with ScriptedUpstream(refuse={"metadata"}) as scripted:
        client = forwarder(scripted, "generic", learn=False)
        assert send_chat_request(client, metadata={"a": "b"}).status_code == 400
        assert len(scripted.requests) == 1


def test_readiness_shows_learned_quirks_only_if_verbose() -> None:
    with ScriptedUpstream() as scripted:
        client = forwarder(scripted, "deepseek")
        assert "learned" not in client.get("/ready").get_json()["upstreams"]["chat"]
        verbose = client.get("/ready?verbose").get_json()["upstreams"]["chat"]
        assert (verbose["provider"], verbose["learned"]) == ("deepseek", {})


def make_native_client(upstream: ScriptedUpstream, provider: str) -> FlaskClient:
    """A forwarder in front of an upstream that speaks Responses itself."""
    environment = {"RESPONSES_BASE_URL": upstream.url, "RESPONSES_PROVIDER": provider}
    return create_app(Settings.from_env(environment)).test_client()


def test_quirks_are_learned_from_native_responses() -> None:
    with ScriptedUpstream(refuse={"developer_role"}) as scripted:
        client = make_native_client(scripted, "generic")
        items = [{"role": "developer", "content": "Be brief."}, make_user_message("hi")]
        for number in (2, 3):
            answer = client.post("/v1/responses", json={"model": "m", "input": items})
            assert answer.status_code == 200
            assert len(scripted.requests) == number


STRICT = {"X-Forwarder-Strict": "true"}
STORED_PARAMETERS = {"store": True, "metadata": {"a": "b"}}


@pytest.mark.parametrize("provider", ["deepseek", "mistral"])
@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_metadata_is_stored_but_not_sent_to_providers_that_refuse_it(
    path: str, provider: str, tmp_path: Path
) -> None:
    question = [{"role": "user", "content": "hi"}]
    input_field = {"input": question} if path == "responses" else {"messages": question}
    with ScriptedUpstream() as scripted:
        environment = {
            "CHAT_BASE_URL": scripted.url,
            "CHAT_API_KEY": KEY,
            "CHAT_PROVIDER": provider,
            "FORWARDER_DATABASE_URL": f"sqlite:///{tmp_path}/state.db",
        }
        client = create_app(Settings.from_env(environment)).test_client()
        body = {"model": "m", **STORED_PARAMETERS, **input_field}
        answer = client.post(f"/v1/{path}", json=body, headers=STRICT)
        assert answer.status_code == 200
        assert "X-Forwarder-Dropped" not in answer.headers
        assert not STORED_PARAMETERS.keys() & scripted.requests[-1].body.keys()
        stored_answer = client.get(f"/v1/{path}/{answer.get_json()['id']}").get_json()
        assert stored_answer["metadata"] == STORED_PARAMETERS["metadata"]
        translation = client.post("/forwarder/translate", json=body, headers=STRICT).get_json()
        assert translation["dropped"] == {}
        unstored_answer = client.post(f"/v1/{path}", json={**body, "store": False})
        assert unstored_answer.headers["X-Forwarder-Dropped"] == "metadata"


def test_upstream_path_can_begin_at_the_root_of_its_host() -> None:
    with ScriptedUpstream() as scripted:
        client = make_native_client(scripted, "deepseek")
        assert client.post("/v1/responses", json={"model": "m", "input": "hi"}).status_code == 404
        assert scripted.requests[0].path == "/responses"


# -- native Responses streams ---------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_the_output_that_chatgpts_backend_leaves_out_is_filled_in(path: str, stream: bool) -> None:
    def without_output(events: list[Json], _: Any) -> list[Json]:
        return [*events[:-1], {**events[-1], "response": {**events[-1]["response"], "output": []}}]

    with ScriptedUpstream(refuse={"whole_answers", "metadata"}) as scripted:
        scripted.script(Stream(Answer(text="Hello.", pieces=1), [without_output]))
        question = [{"role": "user", "content": "hi"}]
        input_field = {"input": question} if path == "responses" else {"messages": question}
        body = {"model": "m", "stream": stream, "temperature": 0.5, **input_field}
        answer = make_native_client(scripted, "chatgpt").post(f"/v1/{path}", json=body)
        assert answer.status_code == 200
        sent = scripted.requests[-1].body
        assert (sent["stream"], sent["store"]) == (True, False)
        assert isinstance(sent["instructions"], str)
        assert "temperature" not in sent
        text = answer.text
        if stream and path == "responses":
            last_event = json.loads(text.strip().rpartition("data: ")[2])
            text = json.dumps(last_event["response"]["output"])
        assert "Hello." in text
