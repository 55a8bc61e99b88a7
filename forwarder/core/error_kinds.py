"""Classifies upstream errors into kinds by their status, code, type and message.

Providers word the same failure differently, but client programs act on OpenAI's codes and
statuses.  This module holds the only table of codes and wordings.  ``UpstreamRefused`` applies it,
so that HTTP errors, errors inside a stream or a whole answer, retries and fallbacks agree.

The evidence is checked in this order: a code or type in the table, the wording of the message, the
HTTP status.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, NamedTuple

Json = dict[str, Any]

MAX_SEARCHED_CHARACTERS = 4096
"""Characters of an error's text that are searched."""

MAX_WRAPPER_DEPTH = 4
"""Levels of wrapping around an error object that are removed."""


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


_RULES: dict[ErrorKind, ErrorRule] = {
    ErrorKind.CONTEXT_TOO_LONG: ErrorRule((400,), type="invalid_request_error"),
    ErrorKind.MODEL_NOT_FOUND: ErrorRule((404,), type="invalid_request_error"),
    ErrorKind.KEY_REFUSED: ErrorRule((401, 403)),
    ErrorKind.QUOTA_EXHAUSTED: ErrorRule(
        (429, 402), ("usage_limit_reached", "usage_not_included", "billing_hard_limit_reached")
    ),
    ErrorKind.RATE_LIMITED: ErrorRule((429, 413, 503)),
    ErrorKind.OVERLOADED: ErrorRule((503, 429, 498, 529), ("slow_down", "overloaded")),
}

_KIND_BY_STATUS = {
    401: ErrorKind.KEY_REFUSED,
    402: ErrorKind.QUOTA_EXHAUSTED,
    429: ErrorKind.RATE_LIMITED,
    529: ErrorKind.OVERLOADED,
}
"""HTTP statuses that mean one kind if neither code nor message tells more."""


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
"""The HTTP status that a code or type of no kind would have had, where the error came in a 200."""


def normalize_code(code: object) -> str:
    """Reduce a code to letters and digits: providers spell the same code in many ways."""
    name = str(code).rpartition("#")[2].partition(":")[0]  # AWS: "namespace#Name:address"
    return re.sub(r"[\W_]+|Exception$", "", name).lower()


_KIND_BY_CODE = {
    normalize_code(code): kind for kind, codes in _CODES_BY_KIND.items() for code in codes
}
_STATUS_BY_CODE = {
    normalize_code(c): status for status, codes in _CODES_BY_STATUS.items() for c in codes
}
_CODES_FOR_CLIENTS = {normalize_code(c): c for rule in _RULES.values() for c in rule.codes}
_CODES_FOR_CLIENTS |= {normalize_code(kind.value): kind.value for kind in ErrorKind}

_FIELD_ERROR_CODES = re.compile(
    r"above_max|below_min|image|file|audio|schema|function_param|tool_param|tool_choice|metadata"
    r"|response_format",
    re.IGNORECASE,
)
"""Codes of errors about one field. Their messages resemble those of the kinds."""

_SCHEMA_ERROR_WORDING = re.compile(r"\binvalid (json )?schema\b", re.IGNORECASE)
"""The same without a code. The rest of such a message quotes names of the schema."""


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

_KEY_REFUSAL_STATUSES: frozenset[int | None] = frozenset({None, 400, 401, 403})

_WORDINGS: tuple[tuple[ErrorKind, frozenset[int | None], re.Pattern[str]], ...] = (
    (ErrorKind.RATE_LIMITED, frozenset({None, 400, 403, 413, 429, 503}), _RATE_LIMIT_WORDING),
    (ErrorKind.QUOTA_EXHAUSTED, frozenset({None, 400, 402, 403, 429}), _QUOTA_WORDING),
    (ErrorKind.KEY_REFUSED, _KEY_REFUSAL_STATUSES, _KEY_WORDING),
    (ErrorKind.KEY_REFUSED, frozenset({401, 403}), _ACCESS_TOKEN_WORDING),
    (ErrorKind.CONTEXT_TOO_LONG, frozenset({None, 400, 413, 422, 500, 502, 503}), _CONTEXT_WORDING),
    (ErrorKind.MODEL_NOT_FOUND, frozenset({None, 400, 404, 410, 422}), _MODEL_WORDING),
    (ErrorKind.OVERLOADED, frozenset({None, 500, 502, 503, 529}), _OVERLOAD_WORDING),
)
"""The wordings of a kind, and the HTTP statuses with which they mean it; the first match decides.

Rate limits come first: those of tokens are worded like a context that is too long.
"""

_QUOTED_INPUT_MARK = re.compile(r"""['"]input['"]: |\binput_value=""")
"""Where pydantic begins to quote the request; its words say nothing about the error."""

_CONTEXT_LIMIT_NUMBER = compile_any(
    r"max(imum)? context (length|window|size)\D{1,20}(?P<a>\d+)",
    r"(> |must be <= )(?P<b>\d+)",  # Anthropic, TGI
)
_COMPLETION_LIMIT_NUMBER = compile_any(
    r"too large: (?P<a>\d+)",  # vLLM
    r"\b(?P<b>\d+) (tokens )?(in|for) the (output|completion)",  # OpenAI, OpenRouter, SGLang
    r"\b(?P<c>\d+) (output tokens|`max_new_tokens`)",  # vLLM, TGI
    r"\+ (?P<d>\d+) >",  # Anthropic
)


def is_completion_limit_too_large(text: str) -> bool:
    """Return whether the output limit alone exceeds the context, so that no prompt would fit."""
    limit, completion = (
        find_number(_CONTEXT_LIMIT_NUMBER, text),
        find_number(_COMPLETION_LIMIT_NUMBER, text),
    )
    return limit is not None and completion is not None and completion >= limit


def find_number(pattern: re.Pattern[str], text: str) -> int | None:
    match = pattern.search(text)
    return match and int(next(filter(None, match.groupdict().values()))[:18])


# -- reading an error ---------------------------------------------------------------------------

_NESTED_ERROR_FIELDS = ("error", "errors", "detail")
"""Fields that hold an error object, or a list of them; beside a message, only the first does."""

_MESSAGE_FIELDS = (
    "message",
    "detail",
    "msg",
    "error_msg",
    "error_message",
    "errorMessage",
    "Message",
    "status_msg",
    "error_description",
    "description",
    "title",
    "error",
    "errors",
)
"""Fields that hold an error's text, in the order in which they are taken."""

_CODE_FIELDS = ("code", "error_code", "errorCode", "__type")
"""Fields that hold an error's code."""

_WRAPPER_FIELDS = ("message", "code", "type", "param")
"""Fields that are taken from around an error object where it lacks them."""

_EVENT_FIELDS = frozenset({"sequence_number", "event_id", "stream_id"})
"""Fields of a stream event that do not belong to its error."""


def read_error(body: object) -> Json:
    """Extract the error object from an error body of any shape; it always has a ``message``.

    ``code``, ``type`` and ``param`` are present if the body has them; other fields are kept.
    """
    error = unwrap_error(body)
    source = next((name for name in _MESSAGE_FIELDS if error.get(name)), "message")
    code = next((error[name] for name in _CODE_FIELDS if error.get(name) is not None), None)
    if code is None and source != "error" and isinstance(error.get("error"), str):
        code = error["error"]  # a short name beside the text that explains it
    fields = {k: v for k, v in error.items() if k not in (*_EVENT_FIELDS, source, "error")}
    if fields.get("type") == "error":  # the type of the event
        del fields["type"]
    if code is not None:
        fields["code"] = code
    return {"message": str(error.get(source) or ""), **fields}


def unwrap_error(body: object) -> Json:
    """Return the object with the message, plus fields that only its wrappers have."""
    value = parse_body(body)
    for _ in range(MAX_WRAPPER_DEPTH):
        names = (
            _NESTED_ERROR_FIELDS
            if not isinstance(value.get("message"), str)
            else _NESTED_ERROR_FIELDS[:1]
        )
        inner = next(filter(None, (find_inner_error(value.get(name)) for name in names)), None)
        if inner is None:
            break
        outer = {k: value[k] for k in _WRAPPER_FIELDS if value.get(k) is not None}
        value = {**outer, **inner}
    return value


def parse_body(body: object) -> Json:
    if isinstance(body, bytes):
        body = body.decode("utf-8", "replace")
    if isinstance(body, str):
        text = body.strip()
        body = parse_embedded_json(text)
        if not isinstance(body, dict | list):
            return {"message": text}
    if isinstance(body, dict):
        return body
    return find_inner_error(body) or {"message": str(body)}


def find_inner_error(value: object) -> Json | None:
    """Return the error object in a field: directly, in a list, or as JSON in a string."""
    if isinstance(value, str):
        value = parse_embedded_json(value)
    if isinstance(value, list) and value and isinstance(value[0], dict) and "loc" not in value[0]:
        value = value[0]  # a list of pydantic's errors stays the message text
    return value if isinstance(value, dict) and value else None


def parse_embedded_json(text: str) -> object:
    """Parse the JSON object or list in a text, which may be framed as an SSE event, else None."""
    text = text.strip().removeprefix("data:").strip()
    if not text.startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# -- classifying --------------------------------------------------------------------------------


class Classification(NamedTuple):
    """An error in OpenAI's terms; ``kind`` is None if it belongs to no kind."""

    kind: ErrorKind | None
    status: int
    code: str | None
    type: str | None


def classify(status: int | None, error: Mapping[str, Any]) -> Classification:
    """Classify an error object; ``status`` is None if it came inside a 200 response."""
    errors = [error, *iter_nested_errors(error)]
    codes = [code for each in errors for code in iter_codes(each)]
    known_status = status or next(filter(None, map(parse_status, codes)), None)
    code, type_ = to_text(error.get("code")), to_text(error.get("type"))
    kind, own = find_kind_by_code(codes, known_status)
    if kind is None:
        texts = (
            _QUOTED_INPUT_MARK.split(part, 1)[0] for each in errors for part in iter_texts(each)
        )
        text = "\n".join(texts)[:MAX_SEARCHED_CHARACTERS]
        kind = find_kind_by_wording(known_status or find_meant_status(codes), text, code or "")
    if kind is None:
        kind = _KIND_BY_STATUS.get(known_status or 0)
        own = code if code and not _is_generic_code(code) else None
    if kind is None:
        return Classification(None, known_status or infer_status(code, type_), code, type_)
    rule = _RULES[kind]
    final = known_status if known_status in rule.statuses else rule.statuses[0]
    code = own or kind.value
    if kind is ErrorKind.QUOTA_EXHAUSTED:  # as OpenAI has it; Codex reads it from the type
        type_ = code
    return Classification(kind, final, code, rule.type or type_)


def find_kind_by_code(codes: list[str], status: int | None) -> tuple[ErrorKind | None, str | None]:
    """Return the kind of the first code that has one, and the code if the client may see it."""
    for code in codes:
        name = normalize_code(code)
        kind = _KIND_BY_CODE.get(name)
        if kind is ErrorKind.KEY_REFUSED and status not in _KEY_REFUSAL_STATUSES:
            continue  # for example, a key that is invalid because the account has no credit
        if kind is not None:
            return kind, _CODES_FOR_CLIENTS.get(name)
    return None, None


def find_kind_by_wording(status: int | None, text: str, code: str) -> ErrorKind | None:
    if _FIELD_ERROR_CODES.search(code) or _SCHEMA_ERROR_WORDING.search(text):
        return None
    for kind, statuses, pattern in _WORDINGS:
        if status in statuses and pattern.search(text):
            if kind is ErrorKind.CONTEXT_TOO_LONG and is_completion_limit_too_large(text):
                continue
            if kind is ErrorKind.OVERLOADED and code and parse_status(code) is None:
                continue  # the provider's specific code is better evidence than the wording
            return kind
    return None


def iter_nested_errors(error: Mapping[str, Any]) -> Iterator[Json]:
    """Yield the errors that an error quotes: a router quotes its provider's error."""
    metadata = error.get("metadata")
    raw = metadata.get("raw") if isinstance(metadata, dict) else None
    for inner in (raw, error.get("innererror"), error.get("inner_error")):
        if inner:
            yield read_error(inner)


def iter_codes(error: Mapping[str, Any]) -> Iterator[str]:
    for name in ("code", "type", "status"):
        if isinstance(error.get(name), str | int):
            yield str(error[name])
    for detail in list_details(error):
        if isinstance(detail.get("reason"), str):
            yield detail["reason"]


def iter_texts(error: Mapping[str, Any]) -> Iterator[str]:
    yield str(error.get("message") or "")
    details = error.get("details")
    if isinstance(details, str):
        yield details
    for detail in list_details(error):
        yield str(detail.get("message") or "")


def list_details(error: Mapping[str, Any]) -> list[Json]:
    details = error.get("details")
    return [d for d in details if isinstance(d, dict)] if isinstance(details, list) else []


def parse_status(code: str) -> int | None:
    """Return the HTTP status if the code is one, as with some providers."""
    return int(code) if re.fullmatch(r"[45]\d\d", code) else None


def _is_generic_code(code: str) -> bool:
    """Return whether a code only repeats the HTTP status, as a number or in words."""
    return parse_status(code) is not None or normalize_code(code) in _STATUS_BY_CODE


def find_meant_status(codes: Iterable[str]) -> int | None:
    """Return the HTTP status that belongs to the first known code or type."""
    names = map(normalize_code, codes)
    return next((_STATUS_BY_CODE[name] for name in names if name in _STATUS_BY_CODE), None)


def infer_status(code: str | None, type_: str | None) -> int:
    """Infer the HTTP status from code or type; an unknown code without a type means 400."""
    meant = find_meant_status(filter(None, (code, type_)))
    return meant or (400 if code and (not type_ or _FIELD_ERROR_CODES.search(code)) else 502)


def to_text(value: object) -> str | None:
    return None if value is None else str(value)
