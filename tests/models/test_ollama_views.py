"""Models as responses of the Ollama API."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from forwarder.config.settings import Settings
from forwarder.models import ollama_views
from forwarder.models.registered_model import RegisteredModel
from forwarder.models.router import Router
from forwarder.providers import PROFILES
from tests.helpers.check_cases import check_each

REMOTE = RegisteredModel(
    "mine:latest",
    "qwen-plus",
    "https://dashscope.aliyuncs.com/compatible-mode/v1",
    parameters={"temperature": 0.5, "stop": ["a", 'b"'], "num_ctx": 8192},
    system="Be kind.",
    license="MIT",
    key="sk-secret",
    headers={"X-Secret": "hush"},
    modified=1.5,
)
VIEW = ollama_views.view_registered(REMOTE)


def test_tag_entry_of_a_registered_model() -> None:
    entry = ollama_views.make_tag_entry(VIEW)

    assert re.fullmatch(r"[0-9a-f]{64}", entry.pop("digest"))
    assert entry.pop("size") > 0
    assert entry == {
        "name": "mine:latest",
        "model": "mine:latest",
        "remote_model": "qwen-plus",
        "remote_host": "https://dashscope.aliyuncs.com/compatible-mode/v1",
        "modified_at": "1970-01-01T00:00:01.500000Z",
        "details": {
            "parent_model": "",
            "format": "",
            "family": "dashscope",
            "families": ["dashscope"],
            "parameter_size": "",
            "quantization_level": "",
            "context_length": 8192,
        },
        "capabilities": ["completion", "tools", "vision", "thinking"],
    }


def test_digest_covers_only_public_fields() -> None:
    def compute_digest(**change: Any) -> str:
        return str(
            ollama_views.make_tag_entry(ollama_views.view_registered(replace(REMOTE, **change)))[
                "digest"
            ]
        )

    assert compute_digest(key="sk-other", modified=9.0) == compute_digest()
    assert compute_digest(system="Be brief.") != compute_digest()
    assert compute_digest(name="other:latest") != compute_digest()


def test_show_response() -> None:
    description = ollama_views.make_description(VIEW, {"reachable": True})

    assert description["parameters"].splitlines() == [
        "temperature                    0.5",
        'stop                           "a"',
        'stop                           "b\\""',
        "num_ctx                        8192",
    ]
    assert description["modelfile"].splitlines()[1:3] == [
        "FROM qwen-plus",
        "PARAMETER temperature 0.5",
    ]
    assert 'SYSTEM """Be kind."""' in description["modelfile"]
    assert (description["system"], description["license"], description["template"]) == (
        "Be kind.",
        "MIT",
        "",
    )
    assert description["model_info"]["dashscope.context_length"] == 8192
    assert description["health"] == {"reachable": True}
    assert "health" not in ollama_views.make_description(VIEW, None)


@check_each("make_entry", [ollama_views.make_tag_entry, ollama_views.make_running_entry])
def test_ollama_views_contain_no_secret(make_entry: Any) -> None:
    text = json.dumps([make_entry(VIEW), ollama_views.make_description(VIEW, None)])

    assert "sk-secret" not in text
    assert "hush" not in text


def test_running_entry_uses_no_memory() -> None:
    entry = ollama_views.make_running_entry(VIEW)

    assert (entry["size_vram"], entry["context_length"]) == (0, 8192)
    assert entry["expires_at"].startswith("23")


@check_each(
    ("model", "provider", "expected"),
    [
        ("some", "generic", ["completion", "tools", "vision"]),
        ("gpt-5.5", "openai", ["completion", "tools", "vision", "thinking"]),
        ("deepseek-r1:8b", "ollama", ["completion", "tools", "vision", "thinking"]),
        ("deepseek-chat", "deepseek", ["completion", "tools", "thinking"]),
        ("text-embedding-v4", "dashscope", ["embedding"]),
    ],
)
def test_capabilities_are_those_of_the_profile(
    model: str, provider: str, expected: list[str]
) -> None:
    remote = RegisteredModel("m:latest", model, "https://a/v1", provider=provider)
    assert ollama_views.list_capabilities(ollama_views.view_registered(remote)) == expected
    embedding_model = replace(remote, capabilities=("embedding",))
    assert ollama_views.list_capabilities(ollama_views.view_registered(embedding_model)) == [
        "embedding"
    ]


def test_view_of_configured_models() -> None:
    settings = Settings.from_env(
        {
            "CHAT_BASE_URL": "http://up.test/v1",
            "CHAT_MODELS": "fast=quick",
            "CHAT_PROVIDER": "vllm",
            "CHAT_CONTEXT_WINDOW": "5",
        }
    )
    route = Router(settings).resolve("fast", "chat")
    view = ollama_views.view_configured({"id": "fast", "created": 10}, route)

    assert (view.name, view.model, view.context_window) == ("fast:latest", "quick", 5)
    entry = ollama_views.make_tag_entry(view)
    assert entry["modified_at"] == "1970-01-01T00:00:10Z"
    assert (entry["details"]["family"], "remote_host" in entry) == ("vllm", False)
    for invalid in (None, "now", 1.7e12, -1e18):
        assert ollama_views.view_configured({"id": "fast", "created": invalid}, route).modified == 0
    assert ollama_views.make_description(view, None)["modelfile"] == "# fast\nFROM quick\n"

    copy = ollama_views.view_registered(
        RegisteredModel("kind:latest", "fast", system="Be kind."), route
    )
    assert (copy.model, copy.profile, copy.context_window) == ("quick", PROFILES["vllm"], 5)
    assert ollama_views.make_tag_entry(copy)["details"]["parent_model"] == "fast"
    assert "remote_host" not in ollama_views.make_tag_entry(copy)
