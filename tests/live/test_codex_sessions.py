"""Codex beyond its tasks: its catalog, its memory, its reviewer, and other set-ups."""

from __future__ import annotations

import base64
import json
import random
import sys
import time
from pathlib import Path

import pytest

from tests.fake_provider import Raw, ScriptedUpstream, Stream
from tests.fake_provider.answers import Answer, Call, Usage
from tests.fake_provider.scenarios import HELLO, THOUGHT
from tests.live.clients import needs_node_package
from tests.live.conftest import KEY, Serve, make_settings
from tests.live.server import Server
from tests.live.test_codex import CONFIG, UNATTENDED, UNKNOWN, run_codex, workspace

pytestmark = [pytest.mark.slow, needs_node_package("@openai/codex")]

__all__ = ["workspace"]

MODEL = "chat/scripted"
MAKE = "go [[scenario:shell_loop file=made.txt]]"

CATALOG = """
env_key = "FORWARDER_KEY"
model_catalog_url = "{url}/models"
"""
"""Codex asks for its catalog with the key that a variable holds."""


def configure(forwarder: Server, websockets: str = "false", name: str = "forwarder") -> str:
    """The settings of a provider from which Codex requests a catalog."""
    catalog_config = CATALOG.format(url=forwarder.v1)
    return (
        CONFIG.format(model=MODEL, url=forwarder.v1, name=name, websockets=websockets)
        + catalog_config
    )


def models_of(upstream: ScriptedUpstream) -> list[str]:
    """The model of each request that the upstream received."""
    return [r.body["model"] for r in upstream.requests if r.method == "POST"]


def list_models(forwarder: Server) -> int:
    """The number of Codex's requests for the catalog."""
    return sum('"route":"models"' in line for line in forwarder.log.splitlines())


def test_the_catalog_is_found_with_the_key_of_a_variable(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    output = run_codex(
        workspace, forwarder, configure(forwarder), UNATTENDED, MAKE, FORWARDER_KEY="any"
    )

    assert UNKNOWN.format(MODEL) not in output
    assert (workspace / "work" / "made.txt").exists()
    tools = {t["function"]["name"] for t in upstream.requests[-1].body["tools"]}
    assert {"apply_patch", "tool_search"} <= tools
    assert "client_metadata" not in forwarder.log


def test_reasoning_is_shown_as_reasoning(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    prompt = "go [[scenario:reasoning_content]]"

    output = run_codex(
        workspace,
        forwarder,
        configure(forwarder),
        UNATTENDED,
        "--json",
        prompt,
        FORWARDER_KEY="any",
    )

    events = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    assert [(i["type"], i["text"]) for i in items] == [
        ("reasoning", THOUGHT),
        ("agent_message", HELLO),
    ]


@pytest.mark.parametrize("websockets", ["false", "true"])
def test_catalog_is_fetched_again_after_a_registration(
    websockets: str, workspace: Path, serve: Serve, upstream: ScriptedUpstream
) -> None:
    """Codex registers the model itself, by a command, and the next answer has another etag."""

    def run(command: str) -> int:
        earlier_models = list_models(forwarder)
        upstream.script(
            Answer(calls=[Call("exec_command", {"cmd": command})]), Answer(text="Done.")
        )
        config = configure(forwarder, websockets)
        run_codex(workspace, forwarder, config, UNATTENDED, "go", FORWARDER_KEY="any")
        return list_models(forwarder) - earlier_models

    forwarder = serve(make_settings(upstream))
    (workspace / "work" / "model.json").write_text(json.dumps({"model": "new", "from": MODEL}))
    post = "import urllib.request as r; r.urlopen({!r}, open('model.json', 'rb').read())"
    create = f'"{sys.executable}" -c "{post.format(forwarder.url + "/api/create")}"'

    assert run("true") == 1
    assert run(create) == 2
    catalog_cache = json.loads((workspace / "home" / "models_cache.json").read_text())
    assert "new" in [model["slug"] for model in catalog_cache["models"]]


@pytest.mark.parametrize("websockets", ["false", "true"])
def test_rate_limits_and_usage_of_the_upstream_reach_codex(
    websockets: str, workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """Codex notes both in the file of its session."""
    headers = {
        "x-reasoning-included": "true",
        "openai-model": "SCRIPTED",
        "x-codex-primary-used-percent": "12.5",
        "x-codex-primary-window-minutes": "300",
    }
    config = configure(forwarder, websockets).replace(MODEL, "responses/scripted")
    upstream.script(*[Stream(Answer(text="Done."), headers=headers)] * 2)
    for _ in range(2):  # a handshake repeats the headers of the answer before it
        output = run_codex(workspace, forwarder, config, UNATTENDED, "go", FORWARDER_KEY="any")
    assert "rerouted" not in output
    assert "flagged" not in output

    session = max((workspace / "home").rglob("rollout-*.jsonl"))
    events = [json.loads(line)["payload"] for line in session.read_text().splitlines()]
    token_count = [event for event in events if event.get("type") == "token_count"][-1]
    assert token_count["rate_limits"]["primary"]["used_percent"] == 12.5
    assert token_count["rate_limits"]["primary"]["window_minutes"] == 300
    assert token_count["info"]["last_usage_includes_reasoning"] is True


def think(size: int) -> str:
    """Thoughts that cannot be compressed."""
    source = random.Random(size)
    return " ".join(f"{source.getrandbits(32):08x}" for _ in range(size // 9))


@pytest.mark.parametrize("websockets", ["false", "true"])
def test_four_turns_of_thoughts_are_not_compacted_too_early(
    websockets: str, workspace: Path, serve: Serve, upstream: ScriptedUpstream
) -> None:
    """The usage that the upstream reports stays below the limit, and counts all thoughts."""
    info = '{"scripted": {"context_window": 20000}}'
    forwarder = serve(make_settings(upstream, CHAT_MODEL_INFO=info))
    usage = Usage(input=8000, output=900, reasoning=800)
    for turn in range(4):
        upstream.script(
            Answer(
                text="I look.",
                reasoning=think(24_000),
                calls=[Call("exec_command", {"cmd": "true"})],
                usage=usage,
            ),
            Answer(text=f"Turn {turn} is done.", reasoning=think(24_000), usage=usage),
        )
        resume_arguments = ["resume", "--last"] if turn else []
        output = run_codex(
            workspace,
            forwarder,
            configure(forwarder, websockets),
            UNATTENDED,
            *resume_arguments,
            f"turn {turn}",
            FORWARDER_KEY="any",
        )
        assert f"Turn {turn} is done." in output
        assert "compacted" not in output

    assert len(models_of(upstream)) == 8
    assert "Turn 0 is done." in json.dumps(upstream.requests[-1].body["messages"])


def review(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream, config: str
) -> list[str]:
    """The models of the requests while a command was reviewed, allowed and run."""
    reviewed = 'approvals_reviewer = "auto_review"\napproval_policy = "on-request"\n'
    file = workspace / "made.txt"
    arguments = {"cmd": f"echo > {file}", "sandbox_permissions": "require_escalated"}
    verdict = {"risk_level": "low", "user_authorization": "high", "outcome": "allow"}
    upstream.script(
        Answer(calls=[Call("exec_command", {**arguments, "justification": "It is to be made."})]),
        Answer(text=json.dumps({**verdict, "rationale": "It is harmless."})),
        Answer(text="It is made."),
    )

    keys = {"FORWARDER_KEY": "any", "CODEX_API_KEY": "any"}
    output = run_codex(workspace, forwarder, reviewed + config, "make it", **keys)

    assert "It is made." in output
    assert file.exists()
    return models_of(upstream)


def test_a_command_is_reviewed_by_the_session_s_own_model(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    models = review(workspace, forwarder, upstream, configure(forwarder))
    assert models == ["scripted", "scripted", "scripted"]


@pytest.mark.parametrize("name", ["codex-auto-review", "gpt-5.6-luna", "gpt-5.6-terra"])
def test_codex_helper_models_are_substituted(
    name: str, workspace: Path, serve: Serve, upstream: ScriptedUpstream
) -> None:
    """By its built-in catalog Codex has such a model write programs that use the tools."""
    forwarder = serve(make_settings(upstream, FORWARDER_CODEX_HELPER_MODEL="chat/helper"))
    config = f'model = "{name}"\nopenai_base_url = "{forwarder.v1}"\n'

    output = run_codex(workspace, forwarder, config, UNATTENDED, MAKE, CODEX_API_KEY="any")

    assert (workspace / "work" / "made.txt").exists(), output
    assert set(models_of(upstream)) == {"helper"}
    assert "rerouted" not in output
    assert "flagged" not in output


@pytest.mark.parametrize("websockets", ["false", "true"])
def test_a_turn_that_a_responses_upstream_has_not_ended_goes_on(
    websockets: str, workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """``end_turn`` of the response says so, and reaches Codex."""
    text = {"type": "output_text", "text": "I go on.", "annotations": []}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [text]}
    response = {"id": "resp_1", "object": "response", "output": [], "status": "in_progress"}
    done = {**response, "status": "completed", "output": [message], "end_turn": False}
    upstream.script(
        Raw(
            events=[
                {"type": "response.created", "response": response},
                {"type": "response.output_item.done", "output_index": 0, "item": message},
                {"type": "response.completed", "response": done},
            ]
        ),
        Answer(text="All is done."),
    )
    config = configure(forwarder, websockets).replace(MODEL, "responses/scripted")

    output = run_codex(workspace, forwarder, config, UNATTENDED, "go on", FORWARDER_KEY="any")

    assert "All is done." in output
    paths = [r.path for r in upstream.requests if r.method == "POST"]
    assert paths == ["/v1/responses", "/v1/responses"]


def test_codex_works_with_only_a_base_url(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    config = f'model = "gpt-5.5"\nopenai_base_url = "{forwarder.v1}"\n'

    run_codex(workspace, forwarder, config, UNATTENDED, MAKE, CODEX_API_KEY="any")

    assert (workspace / "work" / "made.txt").exists()
    assert set(models_of(upstream)) == {"gpt-5.5"}
    assert '"route":"websocket"' in forwarder.log


def test_oss_provider_pulls_a_served_model(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """``codex --oss`` takes the forwarder for Ollama, and a model for one that has to be pulled."""
    oss = ["--oss", "--local-provider", "ollama", "--model", MODEL]

    run_codex(workspace, forwarder, "", *oss, UNATTENDED, MAKE, CODEX_OSS_BASE_URL=forwarder.v1)

    assert (workspace / "work" / "made.txt").exists()
    assert set(models_of(upstream)) == {"scripted"}


def test_a_body_compressed_with_zstd_is_read(
    workspace: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """Codex compresses for a provider called OpenAI when its user is logged in to ChatGPT."""
    log_in(workspace / "home")
    provider = CONFIG.format(model=MODEL, url=forwarder.v1, name="OpenAI", websockets="false")
    backend_config = f'chatgpt_base_url = "{forwarder.url}/chatgpt"\n'

    run_codex(
        workspace,
        forwarder,
        backend_config + provider + "requires_openai_auth = true\n",
        UNATTENDED,
        MAKE,
    )

    assert (workspace / "work" / "made.txt").exists()
    assert models_of(upstream) == ["scripted", "scripted"]


def log_in(home: Path) -> None:
    """Write the file of a log-in; the signature of its token is not checked."""
    account = {"chatgpt_plan_type": "pro", "chatgpt_account_id": "account"}
    claims = {"email": "a@b.c", "exp": int(time.time()) + 86_400}
    parts = [{"alg": "none", "typ": "JWT"}, {**claims, "https://api.openai.com/auth": account}]
    encoded = [base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts]
    token = ".".join([*encoded, "c2lnbmF0dXJl"])
    tokens = {
        "id_token": token,
        "access_token": token,
        "refresh_token": KEY,
        "account_id": "account",
    }
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    login = {"auth_mode": "chatgpt", "OPENAI_API_KEY": None, "tokens": tokens, "last_refresh": now}
    (home / "auth.json").write_text(json.dumps(login))
