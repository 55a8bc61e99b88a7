from __future__ import annotations

import re
from typing import Any

from forwarder.core import errors
from forwarder.core.errors import ForwarderError, InvalidRequest, UpstreamRefused, shorten_value
from tests.helpers.check_cases import check_each

PLAIN = [
    (errors.InvalidRequest, 400, "invalid_request_error", None),
    (errors.Unsupported, 400, "invalid_request_error", "unsupported_parameter"),
    (errors.Unauthorized, 401, "invalid_request_error", "invalid_api_key"),
    (errors.NotFound, 404, "invalid_request_error", "not_found"),
    (errors.MethodNotAllowed, 405, "invalid_request_error", "method_not_allowed"),
    (errors.TooLarge, 413, "invalid_request_error", "request_too_large"),
    (errors.UpstreamUnreachable, 502, "upstream_error", "upstream_unreachable"),
    (errors.UpstreamProtocolError, 502, "upstream_error", "upstream_protocol"),
    (errors.UpstreamTimeout, 504, "upstream_error", "upstream_timeout"),
    (errors.UpstreamConnectTimeout, 504, "upstream_error", "upstream_timeout"),
    (errors.InternalError, 500, "server_error", "internal_error"),
]


@check_each(("kind", "status", "type_", "code"), PLAIN)
def test_an_error_has_a_status_and_a_body_of_openais_shape(
    kind: type[ForwarderError], status: int, type_: str, code: str | None
) -> None:
    error = kind("Why.")
    assert error.status == status
    assert error.make_body() == {
        "error": {"message": "Why.", "type": type_, "param": None, "code": code}
    }
    assert str(error) == "Why."
    assert error.headers == {}


@check_each(
    ("kind", "status", "code"),
    [
        (errors.UpstreamKeyRefused, 403, "upstream_authentication"),
        (errors.UpstreamMisconfigured, 502, "upstream_base_url"),
    ],
)
def test_configuration_error_is_not_retryable(
    kind: type[ForwarderError], status: int, code: str
) -> None:
    error = kind("Why.")
    assert (error.status, error.type, error.code) == (status, "upstream_error", code)
    assert error.headers == {"X-Should-Retry": "false"}
    error.headers["X-Other"] = "of this one alone"
    assert kind("Why.").headers == {"X-Should-Retry": "false"}


@check_each(
    ("error", "detail"),
    [
        (errors.UpstreamUnreachable("Why."), "Why."),
        (errors.UpstreamTimeout("Why."), "Why."),
        (errors.UpstreamConnectTimeout("Why."), "Why."),
        (errors.UpstreamMisconfigured("Why."), "Why."),
        (errors.UpstreamRefused(400, {"message": "Why."}), None),
        (errors.UpstreamKeyRefused("Why."), None),
        (errors.InvalidRequest("Why."), None),
    ],
)
def test_log_detail_never_quotes_a_request(error: ForwarderError, detail: str | None) -> None:
    assert error.log_detail == detail


@check_each(("seconds", "retry_after"), [(0, "1"), (0.2, "1"), (7, "7"), (7.01, "8")])
def test_refused_client_gets_retry_after(seconds: float, retry_after: str) -> None:
    for error, code in (
        (errors.UpstreamUnavailable("Why.", seconds), "upstream_unavailable"),
        (errors.Overloaded("Why.", seconds), "overloaded"),
    ):
        assert (error.status, error.code) == (503, code)
        assert error.headers == {"retry-after": retry_after}


def test_shutdown_error_has_retry_after() -> None:
    error = errors.ShuttingDown()
    assert (error.status, error.code, error.headers) == (503, "shutting_down", {"retry-after": "1"})


def test_error_may_have_a_parameter_and_a_code() -> None:
    error = InvalidRequest("Why.", param="tools[0].name", code="invalid_value")
    assert error.make_error_object()["param"] == "tools[0].name"
    assert error.make_error_object()["code"] == "invalid_value"
    assert InvalidRequest("Why.").param is None


def test_module_docstring_shows_the_error_classes() -> None:
    documented = re.findall(r"^ {4,}([A-Z]\w+)(?: +(\d{3}))?", errors.__doc__ or "", re.MULTILINE)
    real = {
        name: value for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, ForwarderError)
    }  # fmt: skip
    assert {name for name, _ in documented} == set(real)
    assert [(name, real[name].status) for name, status in documented if status] == [
        (name, int(status)) for name, status in documented if status
    ]


@check_each(
    ("status", "body", "expected"),
    [
        (400, {"message": "m", "type": "t", "param": "p", "code": "c"}, {"type": "t", "param": "p", "code": "c"}),
        (429, {"message": "m"}, {"type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"}),
        (404, {"message": "m", "code": 1302}, {"type": "invalid_request_error", "param": None, "code": "1302"}),
        (503, {"message": "m"}, {"type": "server_error", "param": None, "code": None}),
    ],
)  # fmt: skip
def test_refusal_of_the_upstream_is_passed_on(status: int, body: Any, expected: Any) -> None:
    error = UpstreamRefused(status, body, {"retry-after": "1"})
    assert error.status == status
    assert error.make_body() == {"error": {"message": "m", **expected}}
    assert error.headers == {"retry-after": "1"}


def test_refusal_keeps_vendor_fields_and_has_a_message() -> None:
    error = UpstreamRefused(500, {"metadata": {"provider": "x"}, "message": ""})
    assert error.make_body()["error"]["metadata"] == {"provider": "x"}
    assert error.make_body()["error"]["message"] == "The upstream answered 500."


@check_each(
    ("status", "body", "expected"),
    [
        (500, {"message": "Prompt is too long.", "type": "x", "code": 7}, (400, "context_length_exceeded")),
        (400, {"message": "Model Not Exist"}, (404, "model_not_found")),
        (None, {"message": "m", "code": "slow_down", "sequence_number": 3}, (503, "slow_down")),
        (None, {"message": "m"}, (502, None)),
    ],
)  # fmt: skip
def test_a_refusal_of_a_known_kind_has_openais_status_and_code(
    status: int | None, body: Any, expected: Any
) -> None:
    error = UpstreamRefused(status, body)
    assert (error.status, error.code) == expected
    assert error.message == body["message"]


def test_long_names_of_parameters_are_cut() -> None:
    name = "x" * 100_000
    error = InvalidRequest(f"Unknown parameter: '{name}'.", param=name)

    assert error.param == "x" * 200 + "…"
    assert error.message == f"Unknown parameter: '{error.param}'."


@check_each(("value", "expected"), [("x" * 200, "x" * 200), ("x" * 201, "x" * 200 + "…"), (7, "7")])
def test_long_values_are_cut(value: object, expected: str) -> None:
    assert shorten_value(value) == expected
