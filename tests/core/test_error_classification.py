"""Known wordings of each kind of failure, and similar wordings without a kind."""

from __future__ import annotations

import json
from typing import Any

from forwarder.core.error_classification import MAX_SEARCHED_CHARACTERS, classify, read_error
from forwarder.core.error_kinds import ErrorKind
from tests.helpers.check_cases import check_each

Json = dict[str, Any]

CONTEXT, MODEL, KEY = (
    ErrorKind.CONTEXT_TOO_LONG,
    ErrorKind.MODEL_NOT_FOUND,
    ErrorKind.KEY_REFUSED,
)
QUOTA, RATE, OVERLOAD = (
    ErrorKind.QUOTA_EXHAUSTED,
    ErrorKind.RATE_LIMITED,
    ErrorKind.OVERLOADED,
)

WORDINGS: dict[ErrorKind, list[tuple[int, str]]] = {
    CONTEXT: [
        (400, "This model's maximum context length is 100 tokens. However, you requested 120 tokens (100 in the messages, 20 in the completion)."),
        (400, "This model's maximum context length is 100 tokens. However, your prompt contains at least 120 input tokens."),
        (400, "'max_tokens' or 'max_completion_tokens' is too large: 50. This model's maximum context length is 100 tokens and your request has 70 input tokens (50 > 100 - 70)."),
        (400, "This endpoint's maximum context length is 100 tokens. However, you requested about 120 tokens (120 of text input). Please reduce the length of either one."),
        (400, "Your input exceeds the context window of this model."),
        (400, "Requested token count exceeds the model's maximum context length of 100 tokens."),
        (400, "The input (120 tokens) is longer than the model's context length (100 tokens)."),
        (400, "The decoder prompt (length 120) is longer than the maximum model length of 100."),
        (400, "Prompt contains 120 tokens and 0 draft tokens, too large for model with 100 maximum context length"),
        (400, "Input tokens exceed the configured limit of 100 tokens. Your messages resulted in 120 tokens."),
        (400, "The input token count (120) exceeds the maximum number of tokens allowed (100)."),
        (400, "Unable to submit request because the input token count is 120 but the model only supports up to 100."),
        (400, "Input Tokens Exceeded: Number of input tokens exceeds maximum length."),
        (400, "Prompt length (120) exceeds maximum input length (100)"),
        (400, "the number of input tokens 120 cannot exceed the total tokens limit 100 for this model"),
        (400, "litellm.ContextWindowExceededError: no more"),
        (400, "input length too long"),
        (400, "This model's maximum prompt length is 100 but the request contains 120 tokens."),
        (400, "Please reduce the length of the messages or completion."),
        (400, "Range of input length should be [1, 100]"),
        (400, "Invalid request: Your request exceeded model token limit: 100 (requested: 120)"),
        (400, "Prompt exceeds max length"),
        (400, "Prompt 超长"),
        (400, "输入内容过长"),
        (400, "invalid params, context window exceeds limit (2013)"),
        (400, "request (120 tokens) exceeds the available context size (100 tokens), try increasing it"),
        (500, "the request exceeds the available context size. try increasing the context size"),
        (400, "The number of tokens to keep from the initial prompt is greater than the context length."),
        (400, "Trying to keep the first 120 tokens. However, the model is loaded with context length of only 100 tokens"),
        (400, "Cannot truncate prompt with n_keep (120) >= n_ctx (100)"),
        (500, "Reached context length of 100 tokens with this model."),
        (400, "Prompt has 120 tokens, but the configured context size is 100 tokens"),
        (400, "prompt is too long: 120 tokens > 100 maximum"),
        (413, "The prompt is too long: 120, model maximum context length: 100"),
        (400, "Input is too long for requested model."),
        (400, "input length and `max_tokens` exceed context limit: 90 + 20 > 100, decrease one of them"),
        (400, "prompt too long; exceeded max context length by 20 tokens"),
        (400, "the input length exceeds the context length"),
        (400, "prompt token count of 120 exceeds the limit of 100"),
        (413, "Request body too large for some-mini model. Max size: 100 tokens."),
        (400, "The total length of all messages is too long."),
        (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 100. Given: 110 `inputs` tokens and 20 `max_new_tokens`"),
        (422, "Input validation error: `inputs` must have less than 100 tokens. Given: 120"),
        (400, "too many tokens: total number of tokens in the prompt cannot exceed 100 - received 120."),
        (400, "length of prompt_tokens (120) must be less than max_seq_len (100)."),
        (400, "Input length 120 exceeds the maximum length 100"),
        (400, "Total tokens of image and text exceed max message tokens"),
        (413, "The estimated number of input and maximum output tokens (120) exceeded this model context window limit (100)."),
    ],
    MODEL: [
        (404, "The model `m-1.5` does not exist or you do not have access to it."),
        (400, "Model Not Exist"),
        (400, "The supported API model names are a or b, but you passed m."),
        (400, "Unknown model: m"),
        (404, "The API deployment for this resource does not exist. If you created it just now, wait."),
        (400, "Invalid model: m"),
        (400, "Invalid model 'm'. Permitted models are in the documentation."),
        (400, "m is not a valid model ID"),
        (404, "No endpoints found for vendor/m:free."),
        (404, "model 'm' not found, try pulling it first"),
        (404, "models/m is not found for API version v1, or is not supported for generateContent."),
        (404, "Publisher Model `projects/p/models/m` was not found or your project cannot use it."),
        (404, "Not found the model m or Permission denied"),
        (400, "The provided model identifier is invalid."),
        (404, "This model version has reached the end of its life."),
        (400, "The model `m` has been decommissioned and is no longer supported."),
        (404, "model: m-4"),
        (400, "Model m is not supported. Supported models are ['a', 'b']"),
        (400, "The requested model 'm' is not supported by any provider you have enabled."),
        (400, "invalid model ID"),
        (400, "Unavailable model: m"),
        (400, "模型不存在，请检查模型代码。"),
    ],
    KEY: [
        (401, "Unauthorized"),
        (400, "Incorrect API key provided: k. You can find yours in the console."),
        (400, "API key not valid. Please pass a valid API key."),
        (401, "Authentication Fails (no such user)"),
        (400, "API key expired. Please renew the API key."),
        (403, "Your API key is invalid"),
        (403, "Invalid X-API-Key"),
        (401, "You provided no valid API key."),
        (403, "The security token included in the request is invalid."),
        (401, "No auth credentials found"),
        (400, "Invalid bearer token"),
        (403, "Method doesn't allow unregistered callers. Please use API Key."),
        (403, "The request signature we calculated does not match the signature you provided."),
        (401, "身份验证失败。"),
    ],
    QUOTA: [
        (402, "Insufficient Balance"),
        (429, "You exceeded your current quota, please check your plan and billing details."),
        (400, "Your credit balance is too low to access the API."),
        (402, "This request requires more credits, or fewer max_tokens."),
        (403, "Quota exceeded for this key"),
        (429, "账户余额不足"),
        (429, "Insufficient balance or no resource package. Please recharge."),
    ],
    RATE: [
        (429, "Rate limit reached for m on tokens per min (TPM): Limit 100, Used 90, Requested 20. Please reduce the length of the messages."),
        (413, "Request too large for m on tokens per minute (TPM): Limit 100, Requested 120, please reduce your message size."),
        (429, "Too many tokens, please wait before trying again."),
        (429, "You have exceeded your current quota. See https://p.test/docs/rate-limits. Retry in 7s."),
        (429, "您的账户已达到速率限制，请您控制请求频率"),
        (429, "no words that are known"),
    ],
    OVERLOAD: [
        (503, "The engine is currently overloaded, please try again later"),
        (529, "Overloaded"),
        (503, "The model is at capacity."),
        (500, "Server busy, please try again"),
        (503, "该模型当前访问量过大，请您稍后再试"),
    ],
}  # fmt: skip

STATUSES = {CONTEXT: {400}, MODEL: {404}, KEY: {401, 403}, QUOTA: {402, 429},
            RATE: {413, 429, 503}, OVERLOAD: {503, 529}}  # fmt: skip
TYPES = {CONTEXT: "invalid_request_error", MODEL: "invalid_request_error",
         QUOTA: "insufficient_quota"}  # fmt: skip


@check_each(
    ("kind", "status", "message"),
    [(kind, *row) for kind, rows in WORDINGS.items() for row in rows],
)
def test_wording_has_its_kind(kind: ErrorKind, status: int, message: str) -> None:
    classified = classify(status, {"message": message})

    assert classified.kind is kind
    assert classified.status in STATUSES[kind]
    assert classified.code == kind.value


@check_each(
    ("kind", "message"),
    [(kind, m) for kind, rows in WORDINGS.items() for _, m in rows if "no words" not in m],
)
def test_error_in_a_200_answer_has_the_status_of_its_kind(kind: ErrorKind, message: str) -> None:
    statuses = {CONTEXT: 400, MODEL: 404, KEY: 401, QUOTA: 429, RATE: 429, OVERLOAD: 503}

    assert classify(None, {"message": message}) == (
        (kind, statuses[kind], kind.value, TYPES.get(kind))
    )


LOOK_ALIKES: list[tuple[int, str, str | None]] = [
    # only the limit of the answer
    (400, "max_tokens is too large: 999. This model supports at most 100 completion tokens.", None),
    (400, "'max_tokens' is too large: 999. This model's maximum context length is 100 tokens and "
          "your request has 7 input tokens (999 > 100 - 7).", None),
    (400, "This endpoint's maximum context length is 100 tokens. However, you requested about 207 "
          "tokens (7 of text input, 200 in the output).", None),
    (400, "Range of max_tokens should be [1, 100]", None),
    (400, "The maximum tokens you requested exceeds the model limit of 100. Ask for fewer.", None),
    (400, "Invalid max_tokens value, the valid range of max_tokens is [1, 100]", None),
    (400, "max_tokens: 999 > 100, which is the maximum allowed number of output tokens", None),
    (400, "`max_tokens` must be less than or equal to `100`, the maximum value for `max_tokens` is "
          "less than the `context_window` for this model", None),
    (400, "input length and `max_tokens` exceed context limit: 7 + 250 > 200", None),
    (400, "Requested token count exceeds the model's maximum context length of 100 tokens. You "
          "requested 207 tokens: 7 tokens from the input and 200 tokens for the completion.", None),
    (422, "`inputs` tokens + `max_new_tokens` must be <= 100. Given: 7 `inputs` tokens and 200 "
          "`max_new_tokens`", None),
    # one field only
    (400, "Invalid 'input[0].content': string too long. Expected a string with maximum length 10, "
          "but got a string with length 20 instead.", "string_above_max_length"),
    (400, "Invalid 'tools': array too long. Expected an array with maximum length 128, but got an "
          "array with length 200 instead.", "array_above_max_length"),
    (400, "Image size is too large: it exceeds the limit of 20 MB.", "image_too_large"),
    (400, "The image input exceeds the maximum size", None),
    (413, "<html><head><title>413 Request Entity Too Large</title></head></html>", None),
    (400, "Error downloading file: invalid access token", None),
    (400, "Error downloading file: the access token of its URL has expired", None),
    (400, "Missing user key in metadata", None),
    (400, "metadata: no security token", None),
    (400, "Invalid schema for function 'f': model not found in definitions",
          "invalid_function_parameters"),
    (400, "Invalid schema for function 'f': model not found in definitions", None),
    (400, "In 'tools[0]', the definition 'model' was not found", "invalid_function_parameters"),
    (400, "input length 5 exceeds batch size", None),
    (400, "input length 5 exceeds the maximum batch size 4", None),
    (422, "The input text batch of 5 exceeds 4", None),
    # pydantic quotes the request
    (400, "[{'type': 'string_type', 'loc': ('body', 'messages', 0, 'content', 'str'), 'msg': "
          "'Input should be a valid string', 'input': [{'text': 'Fix the rate limit.'}]}]", None),
    (422, '[{"loc": ["body"], "msg": "Field required", "input": {"x": "prompt is too long"}}]',
     None),
    (400, "1 validation error for Request\nmessages.0\n  Input should be a valid dictionary "
          "[type=dict_type, input_value='Invalid API key', input_type=str]", None),
    # a feature of a model that is known
    (400, "This model does not support image input.", None),
    (400, "Unsupported parameter: 'temperature' is not supported with this model.",
     "unsupported_parameter"),
    (400, "Invalid model parameter: temperature", None),
    (404, "No endpoints found that support tool use. Try disabling \"get\".", None),
    (404, "This is not a chat model and thus not supported in the v1/chat/completions endpoint.",
     None),
    (404, "Previous response with id 'resp_1' not found.", "previous_response_not_found"),
    (404, "Not Found", None),
    (403, "You are not allowed to sample from this model.", None),
    (400, "Unknown parameter: 'api_key'.", None),
    (403, "Country, region, or territory not supported", None),
    (500, "Incorrect API key", None),
    (400, "tool_choice: unknown variant `any`", "invalid_request_error"),
    (500, "The server had an error while processing your request.", "server_error"),
    (500, "Overloaded.", "server_error"),
]  # fmt: skip


@check_each(
    "message",
    ["Invalid access token", "Missing user key", "The access token of the request has expired"],
)
def test_wording_about_a_token_means_the_key_only_with_status_403(message: str) -> None:
    assert [classify(status, {"message": message}).kind for status in (403, 400)] == [KEY, None]


@check_each(("status", "message", "code"), LOOK_ALIKES)
def test_similar_wording_has_no_kind(status: int, message: str, code: str | None) -> None:
    classified = classify(status, {"message": message, "code": code, "type": "t"})

    assert classified == (None, status, code, "t")


@check_each(
    ("error", "kind"),
    [
        ({"code": "context_length_exceeded"}, CONTEXT),
        ({"code": "ContextLengthExceeded"}, CONTEXT),
        ({"type": "exceed_context_size_error", "code": 400}, CONTEXT),
        ({"type": "too_many_prompt_tokens", "code": 400}, CONTEXT),
        ({"code": 1261}, CONTEXT),
        ({"code": "tokens_limit_reached"}, CONTEXT),
        ({"code": "DeploymentNotFound"}, MODEL),
        ({"code": "unknown_model"}, MODEL),
        ({"code": "1500", "type": "invalid_model"}, MODEL),
        ({"code": "InvalidApiKey"}, KEY),
        ({"code": 400, "details": [{"reason": "API_KEY_INVALID"}]}, KEY),
        ({"code": "com.amazon.coral.service#UnrecognizedClientException"}, KEY),
        ({"type": "exceeded_current_quota_error"}, QUOTA),
        ({"code": "Arrearage"}, QUOTA),
        ({"type": "insufficient_quota", "code": "credit_balance_exhausted"}, QUOTA),
        ({"status": "RESOURCE_EXHAUSTED", "code": 429}, RATE),
        ({"code": "RateLimitReached"}, RATE),
        ({"code": "ThrottlingException:http://x.test/"}, RATE),
        ({"code": "Throttling.RateQuota"}, RATE),
        ({"type": "engine_overloaded_error"}, OVERLOAD),
        ({"status": "UNAVAILABLE", "code": 503}, OVERLOAD),
        ({"type": "overloaded_error"}, OVERLOAD),
    ],
)
def test_error_is_classified_by_its_code_alone(error: Json, kind: ErrorKind) -> None:
    assert classify(None, {"message": "No.", **error}).kind is kind


@check_each(
    ("code", "status"),
    [
        ("insufficient_quota", 429),
        ("billing_hard_limit_reached", 429),
        ("usage_limit_reached", 429),
        ("usage_not_included", 429),
        ("rate_limit_exceeded", 429),
        ("server_is_overloaded", 503),
        ("slow_down", 503),
        ("overloaded", 503),
        ("cyber_policy", 400),
        ("invalid_prompt", 400),
        ("server_error", 500),
    ],
)
def test_a_code_that_programs_act_on_is_kept(code: str, status: int) -> None:
    classified = classify(None, {"message": "No.", "code": code})

    assert (classified.code, classified.status) == (code, status)


def test_usage_limit_is_detected_by_its_type() -> None:
    """ChatGPT's backend sends no code, and Codex reads the type."""
    classified = classify(429, {"message": "No.", "type": "usage_limit_reached", "resets_at": 7})

    assert classified == (QUOTA, 429, "usage_limit_reached", "usage_limit_reached")


@check_each(
    ("status", "error", "expected"),
    [
        (402, {"code": "insufficient_quota"}, 402),
        (402, {"code": "invalid_api_key", "message": "Insufficient balance"}, 402),
        (403, {"code": "insufficient_quota"}, 429),
        (429, {"type": "engine_overloaded_error"}, 429),
        (500, {"message": "The prompt is too long"}, 400),
        (403, {"code": "model_not_found"}, 404),
        (400, {"message": "Incorrect API key provided"}, 401),
        (403, {"code": "invalid_api_key"}, 403),
        (413, {"code": "rate_limit_exceeded"}, 413),
    ],
)
def test_a_status_that_fits_the_kind_is_kept(status: int, error: Json, expected: int) -> None:
    assert classify(status, error).status == expected


@check_each("code", ["1210", "E17"])
def test_error_classified_by_status_keeps_its_code(code: str) -> None:
    assert classify(429, {"code": code}) == (RATE, 429, code, None)
    assert classify(429, {"code": "429"}).code == "rate_limit_exceeded"


def test_error_quoted_by_a_router_is_classified() -> None:
    raw = json.dumps({"error": {"message": "Too much.", "code": "context_length_exceeded"}})
    error = {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw}}

    assert classify(400, error).kind is CONTEXT
    assert classify(400, {**error, "metadata": {"raw": "prompt is too long"}}).kind is CONTEXT
    assert classify(400, {**error, "metadata": {"raw": None}}).kind is None


def test_classification_is_idempotent() -> None:
    for kind, rows in WORDINGS.items():
        for status, message in rows:
            first = classify(status, {"message": message})
            second = classify(first.status, {"message": "", "code": first.code, "type": first.type})
            assert second == first, kind


def test_only_the_head_of_a_long_text_is_searched() -> None:
    """A text with many partial matches must not take quadratic time."""
    partial_matches = "m model input prompt tokens exceeds maximum context " * 40_000

    assert (
        classify(400, {"message": " " * MAX_SEARCHED_CHARACTERS + "prompt is too long"}).kind
        is None
    )
    for text in (partial_matches, "model " * 400_000, "exceed" * 400_000, "上下文" * 400_000):
        classify(400, {"message": text, "metadata": {"raw": text}})


# -- shapes -------------------------------------------------------------------------------------

SHAPES: list[tuple[Any, Json]] = [
    ({"error": {"message": "m", "code": "c", "type": "t", "param": "p"}},
     {"message": "m", "code": "c", "type": "t", "param": "p"}),
    ({"error": "m"}, {"message": "m"}),
    ({"error": "m", "code": "c"}, {"message": "m", "code": "c"}),
    ({"error": "Unauthorized", "message": "m"}, {"message": "m", "code": "Unauthorized"}),
    ({"error": "invalid_token", "error_description": "m"}, {"message": "m", "code": "invalid_token"}),
    ({"error": {"error": {"message": "m"}}}, {"message": "m"}),
    ({"error": '{"error": {"message": "m", "code": "c"}}'}, {"message": "m", "code": "c"}),
    ({"error": {"message": "m"}, "code": "c"}, {"message": "m", "code": "c"}),
    ([{"error": {"message": "m", "status": "NOT_FOUND"}}], {"message": "m", "status": "NOT_FOUND"}),
    ({"type": "error", "error": {"type": "t", "message": "m"}}, {"message": "m", "type": "t"}),
    ({"type": "error", "code": "c", "message": "m", "param": None, "sequence_number": 3},
     {"message": "m", "code": "c", "param": None}),
    ({"object": "error", "message": "m", "code": 400}, {"message": "m", "object": "error", "code": 400}),
    ({"message": "m", "__type": "x#y"}, {"message": "m", "__type": "x#y", "code": "x#y"}),
    ({"Message": "m"}, {"message": "m"}),
    ({"error_code": 7, "error_msg": "m"}, {"message": "m", "error_code": 7, "code": 7}),
    ({"msg": "m", "code": 7}, {"message": "m", "code": 7}),
    ({"success": False, "errors": [{"code": 7, "message": "m"}]}, {"message": "m", "code": 7}),
    ({"errors": ["m"]}, {"message": "['m']"}),
    ({"message": "m", "errors": [{"field": "x"}]}, {"message": "m", "errors": [{"field": "x"}]}),
    ({"error": {"code": "c"}, "message": "m"}, {"message": "m", "code": "c"}),
    ({"detail": "m"}, {"message": "m"}),
    ({"detail": {"message": "m", "code": "c"}}, {"message": "m", "code": "c"}),
    ({"status": 404, "title": "t", "detail": "m"}, {"message": "m", "status": 404, "title": "t"}),
    ({"detail": [{"loc": ["body", "x"], "msg": "m"}]},
     {"message": "[{'loc': ['body', 'x'], 'msg': 'm'}]"}),
    ("data: {\"error\": {\"message\": \"m\"}}\n\n", {"message": "m"}),
    (b'{"message": "m"}', {"message": "m"}),
    ("  m ", {"message": "m"}),
    ("{m", {"message": "{m"}),
    ("[1]", {"message": "[1]"}),
    ({}, {"message": ""}),
    (None, {"message": "None"}),
    (7, {"message": "7"}),
]  # fmt: skip


@check_each(("body", "error"), SHAPES)
def test_errors_of_all_shapes_are_read(body: Any, error: Json) -> None:
    assert read_error(body) == error
    if isinstance(body, dict | list):
        assert read_error(json.dumps(body)) == error


def test_too_deeply_nested_body_is_read_as_text() -> None:
    assert read_error("[" * 100_000)["message"].startswith("[[")
    deep: Any = "m"
    for _ in range(50):
        deep = {"error": deep}
    assert isinstance(read_error(deep)["message"], str)


def test_lone_surrogates_are_replaced() -> None:
    error = read_error('{"error": {"message": "You wrote \\ud83d.", "code": NaN}}')

    assert error == {"message": "You wrote \ufffd.", "code": None}
