"""Selection of profiles for upstreams and models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from forwarder.providers import PROFILE_FIELDS, PROFILES, apply_model_overrides, select_profile
from tests.helpers.check_cases import check_each


@check_each(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://my.openai.azure.com/openai/v1", "azure"),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://API.DeepSeek.com", "deepseek"),
        ("https://api.moonshot.cn/v1", "moonshot"),
        ("https://open.bigmodel.cn/api/paas/v4", "zhipu"),
        ("https://api.z.ai/api/paas/v4", "zhipu"),
        ("https://api.minimaxi.com/v1", "minimax"),
        ("https://api.minimax.io/v1", "minimax"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gemini"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.individual.githubcopilot.com", "copilot"),
        ("https://chatgpt.com/backend-api/codex", "chatgpt"),
        ("http://localhost:11434/v1", "ollama"),
        ("http://localhost:1234/v1", "lmstudio"),
        ("http://localhost:12345/v1", "generic"),
        ("https://example.org/api.openai.com", "generic"),
    ],
)
def test_select_profile_by_url(url: str, name: str) -> None:
    assert select_profile("", url, {}).name == name


def test_select_profile_by_name() -> None:
    assert select_profile("vllm", "https://api.openai.com/v1", {}) is not PROFILES["openai"]
    assert select_profile("vllm", "https://api.openai.com/v1", {}) == PROFILES["vllm"]


def test_operator_overrides_every_field() -> None:
    profile = select_profile("openai", "", {"max_tokens": "max_tokens", "drop": ["user", "seed"]})
    assert (profile.max_tokens, profile.drop) == ("max_tokens", frozenset({"user", "seed"}))
    assert profile.developer_role == PROFILES["openai"].developer_role
    profile_of_overrides = select_profile(
        "", "", {"server_calls": ["srv_"], "responses_takes": ["top_k"]}
    )
    assert (profile_of_overrides.server_calls, profile_of_overrides.responses_takes) == (
        ("srv_",),
        frozenset({"top_k"}),
    )
    assert {"max_tokens", "drop", "developer_role"} <= PROFILE_FIELDS
    assert not {"name", "hosts"} & PROFILE_FIELDS


def test_overrides_of_all_fields_from_settings_have_the_types_of_the_profile() -> None:
    """Settings are JSON, so sets and tuples come as lists."""
    quirks: dict[str, Any] = {}
    for name in PROFILE_FIELDS - {"models"}:
        default = getattr(PROFILES["generic"], name)
        quirks[name] = [*default] if isinstance(default, frozenset | tuple) else default
    profile = select_profile("generic", "", {**quirks, "models": {"x*": quirks}})
    assert profile == replace(PROFILES["generic"], models=profile.models)
    assert hash(apply_model_overrides(profile, "x1")) == hash(PROFILES["generic"])


def test_operator_override_beats_builtin_model_override() -> None:
    profile = select_profile("deepseek", "", {"forced_tool_choice": "ok"})
    assert apply_model_overrides(profile, "deepseek-reasoner").forced_tool_choice == "ok"
    assert (
        apply_model_overrides(PROFILES["deepseek"], "deepseek-reasoner").forced_tool_choice
        == "auto"
    )


def test_apply_model_overrides() -> None:
    models = {"*qwen*": {"drop": ["seed"]}, "*-max": {"max_tokens": "max_completion_tokens"}}
    profile = select_profile("generic", "", {"models": models})
    assert apply_model_overrides(profile, "Qwen3-Max").drop == {"seed"}
    assert apply_model_overrides(profile, "Qwen3-Max").max_tokens == "max_completion_tokens"
    assert apply_model_overrides(profile, "glm").drop == frozenset()
    assert apply_model_overrides(profile, "glm") is profile
