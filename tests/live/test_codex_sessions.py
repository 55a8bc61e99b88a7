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
from tests.live.test_codex import CONFIG, UNATTENDED, UNKNOWN, run_codex, workshop

pytestmark = [pytest.mark.slow, needs_node_package("@openai/codex")]

__all__ = ["workshop"]

MODEL = "chat/scripted"
MAKE = "go [[scenario:shell_loop file=made.txt]]"

CATALOG = """
env_key = "FORWARDER_KEY"
model_catalog_url = "{url}/models"
"""
"""Codex asks for its catalog with the key that a variable holds."""


def configure(forwarder: Server, websockets: str = "false", name: str = "forwarder") -> str:
    """The settings of a provider from which Codex requests a catalog."""
    more = CATALOG.format(url=forwarder.v1)
    return CONFIG.format(model=MODEL, url=forwarder.v1, name=name, websockets=websockets) + more


def models_of(upstream: ScriptedUpstream) -> list[str]:
    """The model of each request that the upstream got."""
    return [r.body["model"] for r in upstream.requests if r.method == "POST"]


def list_models(forwarder: Server) -> int:
    """How often Codex has asked for its catalog."""
    return sum('"route":"models"' in line for line in forwarder.log.splitlines())


def test_the_catalog_is_found_with_the_key_of_a_variable(
    workshop: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    said = run_codex(
        workshop, forwarder, configure(forwarder), UNATTENDED, MAKE, FORWARDER_KEY="any"
    )

    assert UNKNOWN.format(MODEL) not in said
    assert (workshop / "work" / "made.txt").exists()
    tools = {t["function"]["name"] for t in upstream.requests[-1].body["tools"]}
    assert {"apply_patch", "tool_search"} <= tools
    assert "client_metadata" not in forwarder.log


def test_reasoning_is_shown_as_reasoning(
    workshop: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    prompt = "go [[scenario:reasoning_content]]"

    said = run_codex(
        workshop, forwarder, configure(forwarder), UNATTENDED, "--json", prompt, FORWARDER_KEY="any"
    )

    events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    assert [(i["type"], i["text"]) for i in items] == [
        ("reasoning", THOUGHT),
        ("agent_message", HELLO),
    ]


@pytest.mark.parametrize("websockets", ["false", "true"])
def test_the_catalog_is_asked_for_again_when_a_model_was_registered(
    websockets: str, workshop: Path, serve: Serve, upstream: ScriptedUpstream
) -> None:
    """Codex registers the model itself, by a command, and the next answer has another etag."""

    def run(command: str) -> int:
        before = list_models(forwarder)
        upstream.script(
            Answer(calls=[Call("exec_command", {"cmd": command})]), Answer(text="Done.")
        )
        config = configure(forwarder, websockets)
        run_codex(workshop, forwarder, config, UNATTENDED, "go", FORWARDER_KEY="any")
        return list_models(forwarder) - before

    forwarder = serve(make_settings(upstream))
    (workshop / "work" / "model.json").write_text(json.dumps({"model": "new", "from": MODEL}))
    post = "import urllib.request as r; r.urlopen({!r}, open('model.json', 'rb').read())"
    create = f'"{sys.executable}" -c "{post.format(forwarder.url + "/api/create")}"'

    assert run("true") == 1
    assert run(create) == 2
    cached = json.loads((workshop / "home" / "models_cache.json").read_text())
    assert "new" in [model["slug"] for model in cached["models"]]


@pytest.mark.parametrize("websockets", ["false", "true"])
def test_rate_limits_and_usage_of_the_upstream_reach_codex(
    websockets: str, workshop: Path, forwarder: Server, upstream: ScriptedUpstream
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
        said = run_codex(workshop, forwarder, config, UNATTENDED, "go", FORWARDER_KEY="any")
    assert "rerouted" not in said
    assert "flagged" not in said

    session = max((workshop / "home").rglob("rollout-*.jsonl"))
    events = [json.loads(line)["payload"] for line in session.read_text().splitlines()]
    counted = [event for event in events if event.get("type") == "token_count"][-1]
    assert counted["rate_limits"]["primary"]["used_percent"] == 12.5
    assert counted["rate_limits"]["primary"]["window_minutes"] == 300
    assert counted["info"]["last_usage_includes_reasoning"] is True


def think(size: int) -> str:
    """Thoughts that cannot be compressed."""
    source = random.Random(size)
    return " ".join(f"{source.getrandbits(32):08x}" for _ in range(size // 9))


@pytest.mark.parametrize("websockets", ["false", "true"])
def test_four_turns_of_thoughts_are_not_compacted_too_early(
    websockets: str, workshop: Path, serve: Serve, upstream: ScriptedUpstream
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
        last = ["resume", "--last"] if turn else []
        said = run_codex(
            workshop,
            forwarder,
            configure(forwarder, websockets),
            UNATTENDED,
            *last,
            f"turn {turn}",
            FORWARDER_KEY="any",
        )
        assert f"Turn {turn} is done." in said
        assert "compacted" not in said

    assert len(models_of(upstream)) == 8
    assert "Turn 0 is done." in json.dumps(upstream.requests[-1].body["messages"])


def review(workshop: Path, forwarder: Server, upstream: ScriptedUpstream, config: str) -> list[str]:
    """The models that were asked while a command was reviewed, allowed and run."""
    reviewed = 'approvals_reviewer = "auto_review"\napproval_policy = "on-request"\n'
    made = workshop / "made.txt"
    asks = {"cmd": f"echo > {made}", "sandbox_permissions": "require_escalated"}
    verdict = {"risk_level": "low", "user_authorization": "high", "outcome": "allow"}
    upstream.script(
        Answer(calls=[Call("exec_command", {**asks, "justification": "It is to be made."})]),
        Answer(text=json.dumps({**verdict, "rationale": "It is harmless."})),
        Answer(text="It is made."),
    )

    keys = {"FORWARDER_KEY": "any", "CODEX_API_KEY": "any"}
    said = run_codex(workshop, forwarder, reviewed + config, "make it", **keys)

    assert "It is made." in said
    assert made.exists()
    return models_of(upstream)


def test_a_command_is_reviewed_by_the_session_s_own_model(
    workshop: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    asked = review(workshop, forwarder, upstream, configure(forwarder))
    assert asked == ["scripted", "scripted", "scripted"]


@pytest.mark.parametrize("name", ["codex-auto-review", "gpt-5.6-luna", "gpt-5.6-terra"])
def test_codex_helper_models_are_substituted(
    name: str, workshop: Path, serve: Serve, upstream: ScriptedUpstream
) -> None:
    """By its built-in catalog Codex has such a model write programs that use the tools."""
    forwarder = serve(make_settings(upstream, FORWARDER_CODEX_HELPER_MODEL="chat/helper"))
    config = f'model = "{name}"\nopenai_base_url = "{forwarder.v1}"\n'

    said = run_codex(workshop, forwarder, config, UNATTENDED, MAKE, CODEX_API_KEY="any")

    assert (workshop / "work" / "made.txt").exists(), said
    assert set(models_of(upstream)) == {"helper"}
    assert "rerouted" not in said
    assert "flagged" not in said


@pytest.mark.parametrize("websockets", ["false", "true"])
def test_a_turn_that_a_responses_upstream_has_not_ended_goes_on(
    websockets: str, workshop: Path, forwarder: Server, upstream: ScriptedUpstream
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

    said = run_codex(workshop, forwarder, config, UNATTENDED, "go on", FORWARDER_KEY="any")

    assert "All is done." in said
    asked = [r.path for r in upstream.requests if r.method == "POST"]
    assert asked == ["/v1/responses", "/v1/responses"]


def test_a_base_url_alone_is_enough(
    workshop: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    config = f'model = "gpt-5.5"\nopenai_base_url = "{forwarder.v1}"\n'

    run_codex(workshop, forwarder, config, UNATTENDED, MAKE, CODEX_API_KEY="any")

    assert (workshop / "work" / "made.txt").exists()
    assert set(models_of(upstream)) == {"gpt-5.5"}
    assert '"route":"websocket"' in forwarder.log


def test_its_provider_for_open_models_pulls_one_that_is_there(
    workshop: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """``codex --oss`` takes the forwarder for Ollama, and a model for one that has to be pulled."""
    oss = ["--oss", "--local-provider", "ollama", "--model", MODEL]

    run_codex(workshop, forwarder, "", *oss, UNATTENDED, MAKE, CODEX_OSS_BASE_URL=forwarder.v1)

    assert (workshop / "work" / "made.txt").exists()
    assert set(models_of(upstream)) == {"scripted"}


def test_a_body_compressed_with_zstd_is_read(
    workshop: Path, forwarder: Server, upstream: ScriptedUpstream
) -> None:
    """Codex compresses for a provider called OpenAI when its user is logged in to ChatGPT."""
    log_in(workshop / "home")
    provider = CONFIG.format(model=MODEL, url=forwarder.v1, name="OpenAI", websockets="false")
    elsewhere = f'chatgpt_base_url = "{forwarder.url}/chatgpt"\n'

    run_codex(
        workshop,
        forwarder,
        elsewhere + provider + "requires_openai_auth = true\n",
        UNATTENDED,
        MAKE,
    )

    assert (workshop / "work" / "made.txt").exists()
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
