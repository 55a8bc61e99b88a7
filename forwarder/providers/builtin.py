"""The profiles of known providers, with overrides for some of their models.

Quirks belong to the provider's platform: the same model can differ between providers.
"""

from __future__ import annotations

from typing import Any

from forwarder.protocols.hosted_tool_names import ALL_HOSTED_TOOLS
from forwarder.providers.profile import Profile

_OPENAI_ONLY_PARAMETERS = frozenset(
    {
        "metadata",
        "moderation",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
    }
)
"""Chat parameters that concern OpenAI's own service; strict providers refuse them."""

_SAMPLING_PARAMETERS = frozenset(
    {
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "logit_bias",
        "logprobs",
        "top_logprobs",
    }
)
"""Sampling parameters, which models that always reason refuse."""

_SEARCH_MODEL_FIELDS: dict[str, Any] = {
    "web_search_options": True,
    "drop": frozenset({"temperature", "top_p", "presence_penalty", "frequency_penalty"}),
}
"""For OpenAI's models that search the web before every answer."""


_STREAM_ONLY_FIELDS = {"always_stream": True}
"""For models that answer only in streams, at least when they reason."""

_PENALTY_PARAMETERS = frozenset({"frequency_penalty", "presence_penalty"})
"""Parameters that the Open Responses schema has beyond OpenAI's."""

_REPETITION_PARAMETERS = frozenset({"top_k", "min_p", "repetition_penalty"})
"""Sampling parameters of servers for open models, under vLLM's names."""

_EFFORTS_UP_TO_HIGH = {"minimal": "low", "xhigh": "high", "max": "high"}
"""Effort mapping for providers that accept only low, medium and high."""

_OPENAI_FIELDS: dict[str, Any] = {
    "developer_role": "developer",
    "max_tokens": "max_completion_tokens",
    "join_text_parts": False,
    "reasoning_field": None,
    "custom_tools": True,
    "allowed_tools": True,
    "keep_reasoning_text": False,
    "compaction": True,
    "keeps_responses": True,
    "models": {
        **{
            glob: {"drop": _SAMPLING_PARAMETERS}
            for glob in ("o[134]*", "gpt-5", "gpt-5-2*", "gpt-5-mini*", "gpt-5-nano*")
        },
        **dict.fromkeys(("*-search-preview*", "*-search-api*"), _SEARCH_MODEL_FIELDS),
    },
}

_REASONS_BY_NAME: dict[str, Any] = {"reasons": "auto"}

_AZURE_DEPLOYMENT_GLOBS = (
    "*gpt[0-9]*",
    "*gpt-[0-9]*",
    "*llama*",
    "*mistral*",
    "*phi-*",
    "*deepseek*",
    "*grok*",
    "*cohere*",
    "*command*",
)
"""Patterns of names of Azure deployments that contain a model's name."""

_CHAT_TEMPLATE_FIELDS: dict[str, Any] = {
    "system_at_head": True,
    "thinking_switch": "template",
    "file": "none",
    "drop": _OPENAI_ONLY_PARAMETERS,
}
"""For servers that build the prompt with the model's chat template."""

_NO_HOSTED_TOOLS: dict[str, Any] = {"hosted_tools": frozenset[str]()}
"""For model servers: they run no hosted tools unless an operator configured some."""

_SIGNATURE_FIELDS: dict[str, Any] = {
    "extra_message_fields": False,
    "signature_fields": frozenset({"extra_content"}),
    "strict_tools": False,
    "schema_dialect": "gemini",
    "reasoning_field": None,
    "signature_placeholder": "skip_thought_signature_validator",
}
"""For Gemini, which refuses its own calls in the history if their signatures are missing."""

_ALL_PROFILES = (
    Profile("generic"),
    Profile("openai", ("api.openai.com",), codex_models=True, **_OPENAI_FIELDS),
    Profile(
        "azure",
        (".openai.azure.com", ".azure.com"),
        key_header="api-key",
        **{
            **_OPENAI_FIELDS,
            "reasons": True,
            "models": {
                **_OPENAI_FIELDS["models"],
                **dict.fromkeys(_AZURE_DEPLOYMENT_GLOBS, _REASONS_BY_NAME),
            },
        },
    ),
    Profile(
        "dashscope",
        ("dashscope",),
        response_format="json_object",
        forced_tool_choice="disable_thinking",
        thinking_switch="enable_thinking",
        effort_map={"minimal": "none"},
        file="none",
        drop=_OPENAI_ONLY_PARAMETERS,
        chat_takes=frozenset({"top_k", "repetition_penalty"}),
        models={
            "qwen3-[0-9]*": _STREAM_ONLY_FIELDS,
            "qvq*": _STREAM_ONLY_FIELDS,
            "*-omni*": _STREAM_ONLY_FIELDS,
            "*thinking*": {"forced_tool_choice": "auto", **_STREAM_ONLY_FIELDS},
            "qwq*": {"forced_tool_choice": "auto", **_STREAM_ONLY_FIELDS},
            "deepseek*": {"reasoning_placeholder": " "},
            "kimi*": {"reasoning_placeholder": " ", "schema_dialect": "moonshot"},
        },
    ),
    Profile(
        "deepseek",
        ("api.deepseek.com",),
        response_format="json_object",
        forced_tool_choice="disable_thinking",
        reasoning_replay="tool_turns",
        reasoning_placeholder=" ",
        thinking_switch="thinking_effort",
        effort_map={
            "none": None,
            "minimal": "high",
            "low": "high",
            "medium": "high",
            "xhigh": "max",
        },
        image_url="none",
        file="none",
        responses_path="/responses",
        responses_developer="system",
        repair_responses=True,
        responses_takes=frozenset({"reasoning_text"}),
        drop=_OPENAI_ONLY_PARAMETERS,
        models={"deepseek-reasoner": {"forced_tool_choice": "auto"}},
    ),
    Profile(
        "moonshot",
        ("moonshot.", "api.kimi.com"),
        forced_tool_choice="disable_thinking",
        schema_dialect="moonshot",
        reasoning_replay="tool_turns",
        reasoning_placeholder=" ",
        thinking_switch="thinking",
        effort_map={"minimal": "none"},
        image_url="base64",
        file="none",
        drop=_OPENAI_ONLY_PARAMETERS | {"frequency_penalty", "presence_penalty"},
        models={
            "*thinking*": {"forced_tool_choice": "auto"},
            "kimi-k2.[5-9]*": {"drop": _OPENAI_ONLY_PARAMETERS | _SAMPLING_PARAMETERS},
            "kimi-k2.7-code*": {"forced_tool_choice": "auto"},
            "moonshot-v1*": {"forced_tool_choice": "ok"},
        },
    ),
    Profile(
        "zhipu",
        ("bigmodel.cn", "api.z.ai"),
        response_format="json_object",
        forced_tool_choice="auto",
        thinking_switch="thinking",
        effort_map={"minimal": "none"},
        file="none",
        drop=_OPENAI_ONLY_PARAMETERS,
    ),
    Profile(
        "minimax",
        ("minimax",),
        system_at_head=True,
        response_format="none",
        add={"reasoning_split": True},
        file="none",
        drop=_OPENAI_ONLY_PARAMETERS | {"reasoning_effort"},
    ),
    Profile(
        "mistral",
        ("api.mistral.ai",),
        extra_message_fields=False,
        stream_options=False,
        forced_tool_choice="any",
        strict_tools=False,
        schema_dialect="mistral",
        call_id_limit=9,
        call_id_exact=True,
        reasoning_field=None,
        file="none",
        drop=_OPENAI_ONLY_PARAMETERS | {"reasoning_effort", "user"},
    ),
    Profile(
        "groq",
        ("api.groq.com",),
        hosted_tools=frozenset({"mcp", "code_interpreter"}),
        extra_message_fields=False,
        max_tokens="max_completion_tokens",
        reasoning_field="reasoning",
        effort_map=_EFFORTS_UP_TO_HIGH,
        file="none",
        drop=_OPENAI_ONLY_PARAMETERS | {"logprobs", "top_logprobs", "logit_bias"},
        models={
            "*qwen*": {
                "effort_map": dict.fromkeys(
                    ("minimal", "low", "medium", "high", "xhigh", "max"), "default"
                )
            },
        },
    ),
    Profile(
        "gemini",
        ("generativelanguage.googleapis.com",),
        **_SIGNATURE_FIELDS,
        effort_map={"xhigh": "high", "max": "high"},
        image_url="base64",
        drop=_OPENAI_ONLY_PARAMETERS
        | {"logit_bias", "frequency_penalty", "presence_penalty", "seed"},
    ),
    Profile(
        "vertex",
        ("aiplatform.googleapis.com",),
        effort_map={"xhigh": "high", "max": "high"},
        drop=_OPENAI_ONLY_PARAMETERS,
        models={"google/*": _SIGNATURE_FIELDS},
    ),
    Profile(
        "litellm",
        developer_role="developer",
        join_text_parts=False,
        max_tokens="as_is",
        tool_name_limit=0,
        call_id_limit=0,
        reasoning_replay="as_is",
    ),
    Profile(
        "xai",
        ("api.x.ai",),
        hosted_tools=frozenset({"mcp", "web_search", "file_search", "code_interpreter"}),
        effort_map={**_EFFORTS_UP_TO_HIGH, "none": None},
        file="none",
        drop=_OPENAI_ONLY_PARAMETERS,
        models={
            "grok-[4-9]*": {
                "drop": _OPENAI_ONLY_PARAMETERS | {"frequency_penalty", "presence_penalty"}
            },
            "grok-4": {
                "drop": _OPENAI_ONLY_PARAMETERS
                | {"frequency_penalty", "presence_penalty", "reasoning_effort"}
            },
        },
        repair_responses=True,
        server_calls=("xs_call_",),
    ),
    Profile(
        "copilot",
        ("githubcopilot.com",),
        hosted_tools=ALL_HOSTED_TOOLS - {"image_generation"},
        max_tokens="as_is",
        reasoning_field=None,
        file="none",
        keep_reasoning_text=False,
        repair_responses=True,
        drop=frozenset(
            {
                "metadata",
                "moderation",
                "prompt_cache_options",
                "prompt_cache_retention",
                "service_tier",
            }
        ),
    ),
    Profile(
        "chatgpt",
        ("chatgpt.com",),
        always_stream=True,
        custom_tools=True,
        keep_reasoning_text=False,
        responses_system="developer",
        codex_models=True,
        responses_add={"store": False, "instructions": ""},
        repair_responses=True,
        drop=frozenset(
            {
                "background",
                "max_output_tokens",
                "max_tool_calls",
                "metadata",
                "moderation",
                "prompt_cache_options",
                "prompt_cache_retention",
                "safety_identifier",
                "store",
                "stream_options",
                "temperature",
                "top_logprobs",
                "top_p",
                "truncation",
                "user",
            }
        ),
    ),
    Profile(
        "openrouter",
        ("openrouter.ai",),
        hosted_tools=frozenset({"web_search", "image_generation"}),
        reasoning_field="reasoning",
        thinking_switch="reasoning",
        effort_map={"max": "xhigh"},
        repair_responses=True,
        models={
            "openai/*-search-*": {"web_search_options": True},
            "perplexity/*": {"web_search_options": True},
        },
        chat_takes=_REPETITION_PARAMETERS,
        responses_takes=_PENALTY_PARAMETERS
        | {"top_k", "modalities", "image_config", "input_audio", "models", "provider", "plugins"},
    ),
    Profile(
        "nvidia",
        ("integrate.api.nvidia.com",),
        parallel_tool_calls=False,
        thinking_switch="template",
        file="none",
        drop=_OPENAI_ONLY_PARAMETERS,
    ),
    Profile(
        "vllm",
        **_NO_HOSTED_TOOLS,
        repair_responses=True,
        chat_takes=_REPETITION_PARAMETERS,
        responses_takes=_PENALTY_PARAMETERS
        | {"seed", "logit_bias", "top_k", "repetition_penalty", "ignore_eos", "reasoning_text"},
        **_CHAT_TEMPLATE_FIELDS,
    ),
    Profile(
        "sglang",
        **_NO_HOSTED_TOOLS,
        chat_takes=_REPETITION_PARAMETERS,
        responses_takes=_PENALTY_PARAMETERS | {"top_k", "min_p", "repetition_penalty"},
        **_CHAT_TEMPLATE_FIELDS,
    ),
    Profile(
        "llamacpp",
        **_NO_HOSTED_TOOLS,
        schema_dialect="plain",
        repair_responses=True,
        chat_takes=frozenset(
            {
                "top_k",
                "min_p",
                "repeat_penalty",
                "repeat_last_n",
                "typical_p",
                "mirostat",
                "mirostat_tau",
                "mirostat_eta",
            }
        ),
        responses_takes=_PENALTY_PARAMETERS
        | {"seed", "logit_bias", "top_k", "min_p", "repeat_penalty"},
        **_CHAT_TEMPLATE_FIELDS,
    ),
    Profile(
        "ollama",
        (":11434",),
        **_NO_HOSTED_TOOLS,
        schema_dialect="plain",
        reasoning_field="reasoning",
        effort_map=_EFFORTS_UP_TO_HIGH,
        image_url="base64",
        file="none",
        repair_responses=True,
        drop=_OPENAI_ONLY_PARAMETERS,
    ),
    Profile(
        "lmstudio",
        (":1234",),
        **_NO_HOSTED_TOOLS,
        chat_takes=frozenset({"top_k", "repeat_penalty"}),
        response_format="schema_only",
        thinking_switch="template",
        image_url="base64",
        file="none",
        repair_responses=True,
        drop=_OPENAI_ONLY_PARAMETERS,
    ),
    Profile(
        "demo",
        ("demo.invalid",),
        developer_role="developer",
        max_tokens="max_completion_tokens",
        custom_tools=True,
    ),
)

PROFILES: dict[str, Profile] = {profile.name: profile for profile in _ALL_PROFILES}
"""Provider name -> profile."""
