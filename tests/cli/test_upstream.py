"""The ``probe`` and ``translate`` commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from forwarder.app import create_app
from forwarder.config.settings import Settings
from forwarder.upstream.transport import select_transport
from tests.fake_provider import ScriptedUpstream, faults
from tests.helpers.check_cases import check_each
from tests.helpers.loopback import find_unused_port


@pytest.fixture(autouse=True)
def _close_connections() -> Iterator[None]:
    with httpx2.HTTPTransport() as transport, pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "forwarder.services.select_transport",
            lambda *a: select_transport(*a) or transport,
        )
        yield


def run(*arguments: str, stdin: str = "", **environment: str) -> tuple[int, str, str]:
    """Run a command; return exit code, stdout and stderr."""
    app = create_app(Settings.from_env({"FORWARDER_LOG_LEVEL": "ERROR", **environment}))
    result = app.test_cli_runner().invoke(args=arguments, input=stdin)
    return result.exit_code, result.stdout, result.stderr


def run_probe(*arguments: str, **environment: str) -> tuple[int, str, str]:
    return run("probe", *arguments, **environment)


def parse_quirks(output: str, variable: str) -> dict[str, Any]:
    name, _, value = output.strip().partition("=")
    assert name == variable
    changes: dict[str, Any] = json.loads(value)
    return changes


def test_probe_finds_rejected_parameters() -> None:
    refuse = {"developer_role", "stream_options", "json_schema", "metadata", "later_system"}
    with ScriptedUpstream(refuse=refuse) as upstream:
        code, output, stderr = run_probe(
            "my-llm", FORWARDER_UPSTREAMS="my-llm", MY_LLM_BASE_URL=upstream.url
        )
        assert {request.body["model"] for request in upstream.requests if request.body} == {
            "scripted"
        }
    changes = parse_quirks(output, "MY_LLM_QUIRKS")
    assert code == 0
    assert changes["system_at_head"] is True
    assert changes["stream_options"] is False
    assert changes["drop"] == ["metadata"]
    assert changes["response_format"] == "json_object"
    assert "developer_role" not in changes  # the default profile already contains it
    assert "metadata: accepted with quirks" in stderr
    assert "seed: accepted" in stderr


def test_control_characters_of_an_upstream_are_escaped() -> None:
    with ScriptedUpstream() as upstream:
        upstream.script(faults.refuse_with_status(400, message="\x1b[2J\x9b31m\u202eno"))
        code, _, stderr = run_probe("chat", "--model", "x", CHAT_BASE_URL=upstream.url)
        upstream.script(faults.refuse_with_status(401, message="\x1b[2Jno"))
        _, _, refused = run_probe("chat", "--model", "x", CHAT_BASE_URL=upstream.url)
    assert code == 0
    assert r"(\x1b[2J\x9b31m\u202eno)" in stderr
    assert r"\x1b[2Jno" in refused
    assert "\x1b" not in stderr + refused


def test_probe_output_is_a_valid_quirks_setting() -> None:
    refuse = {"developer_role", "stream_options", "json_schema", "metadata", "later_system"}
    with ScriptedUpstream(refuse=refuse) as upstream:
        _, output, _ = run_probe("chat", "--model", "x", CHAT_BASE_URL=upstream.url)
        assert {request.body["model"] for request in upstream.requests} == {"x"}
        quirks = json.dumps({**parse_quirks(output, "CHAT_QUIRKS"), "learn": False})
        upstream.requests.clear()
        client = create_app(
            Settings.from_env({"CHAT_BASE_URL": upstream.url, "CHAT_QUIRKS": quirks})
        ).test_client()
        body = {
            "model": "x",
            "messages": [{"role": "user", "content": "a"}, {"role": "developer", "content": "b"}],
            "metadata": {"a": "b"},
        }
        with client.post("/v1/chat/completions", json=body) as answer:
            assert answer.status_code == 200
        assert len(upstream.requests) == 1


def test_probe_finds_parameters_to_drop() -> None:
    with ScriptedUpstream(refuse={"tool_choice", "top_p", "same_role_twice"}) as upstream:
        _, output, _ = run_probe("chat", CHAT_BASE_URL=upstream.url, CHAT_MODELS="a=b")
        assert {request.body["model"] for request in upstream.requests} == {"b"}
    changes = parse_quirks(output, "CHAT_QUIRKS")
    assert changes["merge_neighbours"] is True
    assert changes["drop"] == ["tool_choice", "top_p"]


def test_probe_reports_unknown_refusals() -> None:
    with ScriptedUpstream() as upstream:
        upstream.script(faults.refuse_with_status(400, message="Not today."))
        code, _, stderr = run_probe("chat", "--model", "x", CHAT_BASE_URL=upstream.url)
    assert code == 0
    assert "a token limit: rejected, no known quirk helps (Not today.)" in stderr


def test_probe_of_an_unreachable_upstream_prints_one_line() -> None:
    code, output, stderr = run_probe(
        "chat", CHAT_BASE_URL=f"http://127.0.0.1:{find_unused_port()}/v1"
    )
    assert code == 1
    assert output == ""
    assert "cannot be reached" in stderr


def test_probe_of_an_unknown_upstream_is_an_error() -> None:
    code, _, stderr = run_probe("none")
    assert code == 2
    assert "there is no upstream 'none'" in stderr


def test_the_demo_can_be_probed() -> None:
    code, output, _ = run_probe("chat", "--model", "demo")
    assert code == 0
    assert "CHAT_QUIRKS={" in output


# -- translate ------------------------------------------------------------------------------------

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Grüezi"}], "seed": 7}


def test_a_request_is_shown_in_a_terminal() -> None:
    code, output, _ = run("translate", stdin=json.dumps(REQUEST))

    report = json.loads(output)
    assert code == 0
    assert report["request"]["input"][0]["content"] == [{"type": "input_text", "text": "Grüezi"}]
    assert report["dropped"].keys() == {"seed"}
    assert "Grüezi" in output


def test_translate_options_override_the_request() -> None:
    request_json = json.dumps({"input": "hi", "messages": []})

    code, output, _ = run(
        "translate", "--from", "responses", "--model", "chat/x", stdin=request_json
    )

    report = json.loads(output)
    assert (code, report["client"], report["upstream"]["model"]) == (0, "responses", "x")


def test_requests_of_ollama_s_clients_are_shown_too() -> None:
    request_json = json.dumps({"prompt": "hi", "options": {"num_ctx": 9}})

    code, output, _ = run(
        "translate", "--from", "ollama_generate", "--model", "chat/x", stdin=request_json
    )

    report = json.loads(output)
    assert (code, report["request"]["messages"]) == (0, [{"role": "user", "content": "hi"}])
    assert report["dispositions"]["options.num_ctx"]["disposition"] == "dropped"


@check_each(
    ("arguments", "stdin", "message"),
    [
        ([], "{", "not valid JSON"),
        ([], "[" * 100_000, "not valid JSON"),
        ([], '{"input": "\\ud800"}', "not valid JSON"),
        ([], "[]", "must be a JSON object"),
        ([], "{}", "from=chat, from=responses"),
        ([], json.dumps({**REQUEST, "model": 1}), "'model'"),
        (["--strict"], json.dumps(REQUEST), "'seed' cannot be carried"),
        (["--from", "responses"], json.dumps(REQUEST), "'input'"),
    ],
)
def test_error_of_a_bad_request_is_one_line(arguments: list[str], stdin: str, message: str) -> None:
    code, output, stderr = run("translate", *arguments, stdin=stdin)

    assert (code, output) == (1, "")
    [line] = stderr.splitlines()
    assert message in line


def test_strict_setting_applies_to_the_translate_command() -> None:
    code, _, stderr = run("translate", stdin=json.dumps(REQUEST), FORWARDER_STRICT="true")

    assert code == 1
    assert "'seed'" in stderr
