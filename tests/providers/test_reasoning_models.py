"""Recognition of reasoning models."""

from __future__ import annotations

from dataclasses import replace

from forwarder.providers import PROFILES, apply_model_overrides, select_profile
from forwarder.providers.reasoning_models import is_reasoning_model
from tests.helpers.check_cases import check_each

GENERIC = PROFILES["generic"]

REASONING = """
    gpt-5 gpt-5.5 gpt-5.5-2026-04-23 gpt-5-mini gpt-5.1-codex-max gpt-6.1-sol openai/gpt-5.5
    openai/gpt-5.5:nitro azure/gpt-5.5 gpt-oss:20b openai.gpt-oss-120b-1:0 @cf/openai/gpt-oss-120b
    o1 o1-pro o3 o3-mini-2025-01-31 o4-mini-deep-research openrouter/openai/o4-mini
    ft:o4-mini-2025-04-16:acme::a1b2 codex-mini-latest codex-auto-review
    grok-4 grok-4.20 grok-4-1-fast-reasoning x-ai/grok-3-mini grok-code-fast-1
    deepseek-reasoner deepseek-r1 DeepSeek-R1-Distill-Qwen-32B deepseek/deepseek-r1-0528:free
    deepseek.r1-v1:0 deepseek-v3.1 deepseek-ai/DeepSeek-V3.2-Exp deepseek/deepseek-chat-v3.1
    accounts/fireworks/models/deepseek-v3p1 deepseek-v4-flash
    qwen3-235b-a22b qwen3:8b Qwen/Qwen3-32B qwen3-vl-8b-thinking qwen3-max-thinking qwen3.5-plus
    qwq-32b qwq-plus qvq-max kimi-k2-thinking moonshotai/kimi-k2-thinking-turbo kimi-k2.5
    claude-3-7-sonnet-20250219 claude-sonnet-4-20250514 claude-opus-4-1 claude-haiku-4-5@20251001
    anthropic/claude-sonnet-4.5 us.anthropic.claude-opus-4-20250514-v1:0 claude-fable-5
    anthropic/claude-sonnet-latest gemini-2.5-pro gemini-2.5-flash-lite models/gemini-3-pro
    google/gemini-3.1-pro-preview gemini-flash-latest gemini-2.0-flash-thinking-exp
    glm-4.5 glm-4.6v zai-org/GLM-4.7 glm-5 glm-4.1v-thinking-flash accounts/fireworks/models/glm-4p6
    magistral-medium-2509 mistralai/magistral-small minimax-m1 MiniMaxAI/MiniMax-M2.5
    phi-4-reasoning-plus phi-4-mini-flash-reasoning sonar-reasoning-pro sonar-deep-research
    nvidia/nemotron-3-nano-30b-a3b llama-3.3-nemotron-super-49b-v1.5 doubao-seed-1-6 mimo-v2-flash
    arcee-ai/trinity-large-thinking olmo-3-32b-think prod-gpt5-mini team-o3
"""

OTHERS = """
    gpt-4o gpt-4o-mini gpt-4.1 openai/gpt-4o chatgpt-4o-latest gpt-35-turbo gpt-3.5-turbo
    gpt-5-chat-latest gpt-5.1-chat openai/gpt-5.2-chat gpt-realtime gpt-4o-audio-preview
    ft:gpt-4o-mini-2024-07-18:codex:o3:x grok-2 grok-3 grok-4-fast-non-reasoning
    x-ai/grok-4.20-non-reasoning deepseek-chat deepseek-v3 deepseek-v3-0324 deepseek-coder
    qwen-plus qwen2.5-72b-instruct qwen3-235b-a22b-instruct-2507 qwen3:4b-instruct
    qwen3-coder-plus qwen3-max qwen3-embedding-8b qwen3-tts-flash kimi-k2-0905-preview
    moonshotai/kimi-k2-instruct kimi-k2-turbo-preview moonshot-v1-8k
    claude-2.1 claude-instant-1.2 claude-3-opus-20240229 claude-3-5-sonnet-latest
    anthropic/claude-3.5-haiku gemini-1.5-pro gemini-2.0-flash gemini-pro-vision
    gemini-2.5-flash-image gemini-2.5-flash-preview-tts glm-4-plus glm-4-9b-chat mistral-large
    ministral-8b llama-3.1-70b-instruct llama-4-maverick command-r-plus phi-4 sonar-pro
    nvidia/llama-3.1-nemotron-70b-instruct demo m text-embedding-3-large foo3 turbo1
"""


@check_each("model", REASONING.split())
def test_is_reasoning_model_by_name(model: str) -> None:
    assert is_reasoning_model(GENERIC, model)


@check_each("model", OTHERS.split())
def test_other_models_do_not_reason(model: str) -> None:
    assert not is_reasoning_model(GENERIC, model)


@check_each("reasons", [True, False])
def test_is_reasoning_model_by_profile(reasons: bool) -> None:
    profile = replace(GENERIC, reasons=reasons)
    assert [is_reasoning_model(profile, name) for name in ("gpt-5.5", "m")] == [reasons] * 2


@check_each(
    ("deployment", "reasons"),
    [
        ("prod", True),
        ("our-assistant", True),
        ("gpt-5.5", True),
        ("o4-mini", True),
        ("gpt-4o", False),
        ("gpt4o-eu", False),
        ("gpt-35-turbo", False),
        ("gpt-5-chat", False),
        ("Llama-3.3-70B-Instruct", False),
        ("DeepSeek-V3-0324", False),
        ("DeepSeek-R1", True),
    ],
)
def test_is_reasoning_model_on_azure(deployment: str, reasons: bool) -> None:
    profile = select_profile("", "https://acme.openai.azure.com/openai/v1", {})
    assert is_reasoning_model(apply_model_overrides(profile, deployment), deployment) is reasons


def test_is_reasoning_model_with_overrides() -> None:
    every = select_profile("azure", "", {"reasons": False})
    assert not is_reasoning_model(apply_model_overrides(every, "gpt-5.5"), "gpt-5.5")
    some = select_profile("generic", "", {"models": {"smart*": {"reasons": True}}})
    assert is_reasoning_model(apply_model_overrides(some, "smart-2"), "smart-2")
    assert not is_reasoning_model(apply_model_overrides(some, "fast"), "fast")
