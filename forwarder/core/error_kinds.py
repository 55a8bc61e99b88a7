"""The kinds of upstream errors, with the codes and wordings that providers use for them.

Providers word the same failure differently, but client programs act on OpenAI's codes and
statuses.  This module holds the only table of codes and wordings; `error_classification` applies
it.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple


class ErrorKind(Enum):
    """A kind of failure that client programs handle specially."""

    CONTEXT_TOO_LONG = "context_length_exceeded"
    MODEL_NOT_FOUND = "model_not_found"
    KEY_REFUSED = "invalid_api_key"
    QUOTA_EXHAUSTED = "insufficient_quota"
    RATE_LIMITED = "rate_limit_exceeded"
    OVERLOADED = "server_is_overloaded"


class ErrorRule(NamedTuple):
    """The form in which the client gets an error of one kind.

    A status of the provider in ``statuses`` is kept; the first one replaces any other status.
    A code of the provider in ``codes`` is kept, because client programs know it.
    """

    statuses: tuple[int, ...]
    codes: tuple[str, ...] = ()
    type: str | None = None


RULES: dict[ErrorKind, ErrorRule] = {
    ErrorKind.CONTEXT_TOO_LONG: ErrorRule((400,), type="invalid_request_error"),
    ErrorKind.MODEL_NOT_FOUND: ErrorRule((404,), type="invalid_request_error"),
    ErrorKind.KEY_REFUSED: ErrorRule((401, 403)),
    ErrorKind.QUOTA_EXHAUSTED: ErrorRule(
        (429, 402), ("usage_limit_reached", "usage_not_included", "billing_hard_limit_reached")
    ),
    ErrorKind.RATE_LIMITED: ErrorRule((429, 413, 503)),
    ErrorKind.OVERLOADED: ErrorRule((503, 429, 498, 529), ("slow_down", "overloaded")),
}

KIND_BY_STATUS = {
    401: ErrorKind.KEY_REFUSED,
    402: ErrorKind.QUOTA_EXHAUSTED,
    429: ErrorKind.RATE_LIMITED,
    529: ErrorKind.OVERLOADED,
}
"""HTTP status -> the kind that it means if neither code nor message says more."""


# -- codes --------------------------------------------------------------------------------------

_CODES_BY_KIND: dict[ErrorKind, tuple[str, ...]] = {
    ErrorKind.CONTEXT_TOO_LONG: (
        "context_length_exceeded",  # OpenAI, Azure, Groq, Cerebras
        "context_window_exceeded",
        "context_window_exceeded_error",  # LiteLLM
        "context_limit_exceeded",
        "context_size_exceeded",
        "context_too_long",
        "context_overflow",
        "model_context_window_exceeded",  # Z.ai
        "exceed_context_size_error",  # llama.cpp
        "max_context_length_exceeded",
        "model_max_prompt_tokens_exceeded",  # GitHub Copilot
        "tokens_limit_reached",  # GitHub Models
        "too_many_prompt_tokens",  # Perplexity
        "too_many_input_tokens",
        "input_too_long",
        "input_tokens_exceeded",
        "prompt_too_long",
        "prompt_tokens_exceeded",
        "1261",  # Zhipu
        "336103",  # Baidu
    ),
    ErrorKind.MODEL_NOT_FOUND: (
        "model_not_found",  # OpenAI, Groq, DashScope
        "model_not_found_error",
        "model_not_exist",
        "model_does_not_exist",
        "model_not_available",  # Together
        "model_not_supported",  # GitHub Copilot, Hugging Face
        "model_decommissioned",  # Groq
        "model_deprecated",
        "invalid_model",  # Mistral, Perplexity
        "invalid_model_id",
        "unknown_model",  # Azure, GitHub Models
        "unavailable_model",  # GitHub Models
        "no_such_model",
        "deployment_not_found",  # Azure
        "1211",  # Zhipu
    ),
    ErrorKind.KEY_REFUSED: (
        "invalid_api_key",  # OpenAI, Groq, DashScope
        "incorrect_api_key",
        "incorrect_api_key_error",  # Moonshot
        "wrong_api_key",  # Cerebras
        "missing_api_key",
        "no_api_key",
        "api_key_invalid",  # Google
        "expired_api_key",
        "authentication_error",  # Anthropic, DeepSeek
        "authentication_failed",
        "invalid_authentication",
        "invalid_authentication_error",  # Moonshot
        "invalid_token",
        "token_expired",
        "unauthenticated",  # Google
        "unauthorized",
        "unrecognized_client",  # AWS
        "invalid_signature",  # AWS
        "expired_token",  # AWS
        "missing_authentication_token",  # AWS
        "invalid_client_token_id",  # AWS
    ),
    ErrorKind.QUOTA_EXHAUSTED: (
        "insufficient_quota",  # OpenAI
        "billing_hard_limit_reached",  # OpenAI
        "billing_not_active",  # OpenAI
        "credit_balance_exhausted",  # OpenAI
        "organization_spend_limit_exceeded",  # OpenAI
        "project_spend_limit_exceeded",  # OpenAI
        "organization_usage_limit_exceeded",  # OpenAI
        "usage_limit_reached",  # ChatGPT
        "usage_not_included",  # ChatGPT
        "billing_error",  # Anthropic
        "exceeded_current_quota_error",  # Moonshot
        "insufficient_balance",
        "insufficient_credits",
        "insufficient_funds",
        "insufficient_user_quota",  # One API
        "payment_required",
        "quota_exceeded",
        "arrearage",  # DashScope
        "1113",  # Zhipu
        "1308",  # Zhipu
        "1310",  # Zhipu
    ),
    ErrorKind.RATE_LIMITED: (
        "rate_limit_exceeded",  # OpenAI, Groq
        "rate_limit_error",  # Anthropic
        "rate_limit_reached",  # Azure
        "rate_limit_reached_error",  # Moonshot
        "rate_limited",
        "rate_limit",
        "too_many_requests",
        "resource_exhausted",  # Google
        "throttling",  # DashScope, AWS
        "throttling_rate_quota",  # DashScope
        "throttling_allocation_quota",  # DashScope
        "throttling_burst_rate",  # DashScope
        "throttled",
    ),
    ErrorKind.OVERLOADED: (
        "server_is_overloaded",  # OpenAI
        "slow_down",  # OpenAI
        "overloaded",
        "overloaded_error",  # Anthropic
        "server_overloaded",
        "engine_overloaded",
        "engine_overloaded_error",  # Moonshot
        "model_overloaded",
        "model_at_capacity",
        "capacity_exceeded",  # Groq
        "service_unavailable",
        "service_unavailable_error",
        "service_tier_capacity_exceeded",  # Mistral
        "model_not_ready",  # AWS
        "unavailable",  # Google
        "1312",  # Zhipu
    ),
}

_CODES_BY_STATUS: dict[int, tuple[str, ...]] = {
    400: (
        "bad_request",
        "bad_request_error",
        "invalid_argument",
        "invalid_prompt",
        "invalid_request",
        "invalid_request_error",
        "invalid_value",
        "validation",
        "validation_error",
        "unknown_parameter",
        "unsupported_parameter",
        "unsupported_value",
        "bio_policy",
        "content_filter",
        "content_policy_violation",
        "cyber_policy",
        "data_residency_mismatch",
        "misalignment_policy_violation",
    ),
    403: ("access_denied", "forbidden", "permission_denied", "permission_error"),
    404: ("not_found", "not_found_error", "resource_not_found", "resource_not_found_error"),
    500: (
        "api_error",
        "internal",
        "internal_error",
        "internal_server",
        "internal_server_error",
        "model_error",
        "server_error",
    ),
    504: (
        "deadline_exceeded",
        "gateway_timeout",
        "timeout",
        "timeout_error",
        "vector_store_timeout",
    ),
}
"""HTTP status for a code or type of no kind, if the error came in a 200 response."""


def normalize_code(code: object) -> str:
    """Reduce a code to letters and digits: providers spell the same code in many ways."""
    name = str(code).rpartition("#")[2].partition(":")[0]  # AWS: "namespace#Name:address"
    return re.sub(r"[\W_]+|Exception$", "", name).lower()


KIND_BY_CODE = {
    normalize_code(code): kind for kind, codes in _CODES_BY_KIND.items() for code in codes
}
STATUS_BY_CODE = {
    normalize_code(c): status for status, codes in _CODES_BY_STATUS.items() for c in codes
}
CODES_FOR_CLIENTS = {normalize_code(c): c for rule in RULES.values() for c in rule.codes}
CODES_FOR_CLIENTS |= {normalize_code(kind.value): kind.value for kind in ErrorKind}

FIELD_ERROR_CODES = re.compile(
    r"above_max|below_min|image|file|audio|schema|function_param|tool_param|tool_choice|metadata"
    r"|response_format",
    re.IGNORECASE,
)
"""Codes of errors about one field.  They have no kind, though their messages use its wordings."""

SCHEMA_ERROR_WORDING = re.compile(r"\binvalid (json )?schema\b", re.IGNORECASE)
"""Marks an error about a schema that has no such code.  The message quotes names of the schema."""


# -- wordings -----------------------------------------------------------------------------------


def compile_any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_RATE_LIMIT_WORDING = compile_any(
    r"rate[ _-]?limit",
    r"too many requests",
    r"throttl",
    r"(tokens|requests|queries) ?(per|/) ?(sec|min|hour|day)",
    r"\b(TPM|RPM|TPD|RPD|QPS)\b",
    r"too many tokens,? please wait|too many tokens per",  # Bedrock
    r"速率限制|限流|请求过于频繁|频率.{0,10}(限制|过高)",
)

_QUOTA_WORDING = compile_any(
    r"insufficient[ _](account )?(balance|quota|credits?|funds)",
    r"exceeded your (current|monthly) (quota|spend|usage)",
    r"credit balance is (too low|exhausted)|(out of|no more|no remaining) credits",
    r"requires? more credits",  # OpenRouter
    r"quota (has been |is )?(exceeded|exhausted)",
    r"usage limit (has been )?reached",
    r"account is (in arrears|not active|overdue)|good standing",  # DashScope
    r"余额不足|欠费|额度.{0,6}(不足|用尽|用完)",
)

_KEY_WORDING = compile_any(
    r"(incorrect|invalid|wrong|expired|missing|no|unknown|disabled|inactive|revoked) "
    r"(\S{1,20}[ -])?api[- _]?keys?\b",
    r"api[- _]?key (is |was |has been |provided is )?"
    r"(not valid|invalid|incorrect|missing|required|expired|revoked|disabled|not found)",
    r"(didn't|did not|must) provide an api[- _]?key",
    r"(invalid|missing|expired|no|incorrect) "
    r"(authentication|authorization|auth|bearer|subscription)[- ]?"
    r"(header|credentials?|token|key)s?",
    r"authentication (fails|failed|error|required)",
    r"(auth|bearer) token .{0,40}(is|was|has) (invalid|expired)",
    r"security token included in the request is (invalid|expired)",  # AWS
    r"request signature we calculated does not match",  # AWS
    r"unregistered callers|api key was reported as leaked",  # Google
    r"could not validate credentials|invalid credentials|^\W*unauthorized\W*$",
    r"身份验证|鉴权失败|(无效|错误)的? ?(api ?key|令牌)|令牌.{0,6}(无效|过期|不正确)",
)

_ACCESS_TOKEN_WORDING = compile_any(
    r"(invalid|missing|expired|no|incorrect) (access|security|user)[- ]?"
    r"(header|credentials?|token|key)s?",
    r"(security|access) token .{0,40}(is|was|has) (invalid|expired)",
)
"""Wordings of a refused key that may also be about a file's URL or a field of the request."""

_LENGTH_WORDING = r"(length|window|size|limit)"

_CONTEXT_WORDING = compile_any(
    # OpenAI, DeepSeek, vLLM, SGLang, Mistral, OpenRouter, Fireworks
    rf"max(imum)? (model )?context {_LENGTH_WORDING}",
    # OpenAI, Cloudflare, Anthropic ("exceed context limit"), llama.cpp, Ollama
    rf"exceed(s|ed|ing)?\b.{{0,60}}\bcontext[ _]{_LENGTH_WORDING}",
    # MiniMax ("context window exceeds limit") and generic
    rf"context[ _]{_LENGTH_WORDING}\b.{{0,40}}\b(exceed|overflow|too (long|large|small))",
    r"context overflow|ContextWindowExceeded",  # LiteLLM names its class
    # SGLang, Together, vLLM, LM Studio
    r"(longer|larger|greater|more) than the (model'?s? )?(max(imum)? )?(context|model) ?length",
    r"context length of only|reached context length|n_keep.{0,20}n_ctx",  # LM Studio
    r"configured context size",
    r"input token count.{0,40}(exceeds the maximum|only supports up to)",  # Gemini, Vertex
    r"maximum prompt length is",  # xAI
    r"maximum (allowed )?(input|prompt) (length|tokens?)",
    r"maximum (allowed )?number of (input|prompt) tokens",
    # Groq, Cerebras, OpenRouter
    r"reduce the length of (the |your |either )?(messages|prompt|input|context|conversation|one)",
    r"range of input length should be",  # DashScope
    r"exceeded model token limit",  # Moonshot
    r"prompt (exceeds max length|超长)",  # Zhipu
    # Anthropic, Bedrock, Fireworks, Perplexity
    r"(prompt|inputs?|request|messages|conversation)( \([^)]{0,40}\))? (is|are|was) too long",
    r"(prompt|input)( (tokens?|length|text))? too long",  # Ollama, Baidu, Hunyuan
    r"too many (input|prompt) tokens|too many tokens\b(?!,? (please|wait)| per)",
    r"prompt token count.{0,40}exceeds",  # GitHub Copilot
    r"input tokens? exceeds?\b.{0,20}\blimit",  # Azure
    # SiliconFlow, Volcengine, OpenVINO and generic
    r"(input|prompt)[ _](tokens?|length|text|sequence)\b((?!\bbatch).){0,40}"
    r"(exceeds?|exceeded|larger than|greater than|must be less than|cannot exceed)\b"
    r"(?!.{0,20}\bbatch)",
    r"`?inputs`? (tokens \+ `?max_new_tokens`? )?must (have less than|be <=)",  # TGI
    r"total tokens of image and text exceed",  # Volcengine
    r"too large for model with|request body too large for \S{1,80} model",  # Mistral, GitHub
    r"(上下文|输入(内容|长度|文本|token)|提示词|prompt|对话|消息).{0,20}(超长|超过|超出|过长)",
)

_MODEL_WORDING = compile_any(
    # OpenAI, Groq, Ollama, Cohere, Gemini, Vertex, Anthropic-compatible servers
    r"\bmodels?\b(?:(?!\. ).){0,160}?\b"
    r"(not exist|not (be )?found|no longer (exists?|available)|end of its life|decommissioned)\b",
    # Mistral, Perplexity, DeepSeek, Zhipu, LiteLLM
    r"\b(no such|unknown|invalid|unsupported|unavailable|nonexistent) model\b"
    r"(?!'s| (param|config|feat|type|out|in|res))",
    r"model (identifier|id|name)\b.{0,60}\bis (invalid|not valid|unknown)",  # Bedrock
    r"not a valid model|not found the model",  # OpenRouter, Moonshot
    r"(could not|cannot|unable to) (resolve|find|access) (the )?(foundation |requested )?model",
    r"supported (api )?model names are",  # DeepSeek
    r"deployment\b.{0,60}\b(does not exist|not found)",  # Azure
    r"no endpoints found for \S{1,120}$",  # OpenRouter
    r"^model \S{1,120} is not (supported|available)\b",  # Voyage
    r"requested model\b.{0,120}\bis not (supported|available)\b",  # Hugging Face
    r"^model: \S{1,160}$",  # Anthropic
    r"模型.{0,80}(不存在|未找到|无可用渠道)",  # Zhipu, One API
)

_OVERLOAD_WORDING = compile_any(
    r"overload",
    r"(at|over|out of|no available|insufficient|exceeded) capacity",
    r"server (is )?busy|experiencing (a )?(high|heavy) (demand|load|traffic)|high demand",
    r"no (available|healthy) (channel|server|worker|upstream|instance)s?",
    r"负载.{0,6}(饱和|过高)|服务.{0,4}繁忙|访问量过大",
)

KEY_REFUSAL_STATUSES: frozenset[int | None] = frozenset({None, 400, 401, 403})

WORDINGS: tuple[tuple[ErrorKind, frozenset[int | None], re.Pattern[str]], ...] = (
    (ErrorKind.RATE_LIMITED, frozenset({None, 400, 403, 413, 429, 503}), _RATE_LIMIT_WORDING),
    (ErrorKind.QUOTA_EXHAUSTED, frozenset({None, 400, 402, 403, 429}), _QUOTA_WORDING),
    (ErrorKind.KEY_REFUSED, KEY_REFUSAL_STATUSES, _KEY_WORDING),
    (ErrorKind.KEY_REFUSED, frozenset({401, 403}), _ACCESS_TOKEN_WORDING),
    (ErrorKind.CONTEXT_TOO_LONG, frozenset({None, 400, 413, 422, 500, 502, 503}), _CONTEXT_WORDING),
    (ErrorKind.MODEL_NOT_FOUND, frozenset({None, 400, 404, 410, 422}), _MODEL_WORDING),
    (ErrorKind.OVERLOADED, frozenset({None, 500, 502, 503, 529}), _OVERLOAD_WORDING),
)
"""A kind, the HTTP statuses with which its wordings count, and the wordings.  The first match wins.

Rate limits come first: a message about a limit of tokens resembles one about a long context.
"""

QUOTED_INPUT_MARK = re.compile(r"""['"]input['"]: |\binput_value=""")
"""Where pydantic begins to quote the request; its words say nothing about the error."""

CONTEXT_LIMIT_NUMBER = compile_any(
    r"max(imum)? context (length|window|size)\D{1,20}(?P<a>\d+)",
    r"(> |must be <= )(?P<b>\d+)",  # Anthropic, TGI
)
COMPLETION_LIMIT_NUMBER = compile_any(
    r"too large: (?P<a>\d+)",  # vLLM
    r"\b(?P<b>\d+) (tokens )?(in|for) the (output|completion)",  # OpenAI, OpenRouter, SGLang
    r"\b(?P<c>\d+) (output tokens|`max_new_tokens`)",  # vLLM, TGI
    r"\+ (?P<d>\d+) >",  # Anthropic
)
