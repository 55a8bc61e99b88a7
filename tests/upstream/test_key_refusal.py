"""Detection of a refused key, and the error for clients."""

from __future__ import annotations

from typing import Any

from forwarder.config.settings import Settings, UpstreamSettings, make_upstream_settings
from forwarder.core.errors import UpstreamRefused
from forwarder.upstream.key_refusal import is_key_refusal, make_key_refusal_error
from tests.helpers.check_cases import check_each


def make_refusal(status: int, message: str = "no", code: Any = None) -> UpstreamRefused:
    return UpstreamRefused(status, {"message": message, "code": code})


@check_each(
    "refusal",
    [
        make_refusal(401, "whatever it says"),
        make_refusal(401, "The api key format is incorrect"),
        make_refusal(400, "API key not valid. Please pass a valid API key."),
        make_refusal(400, "API key expired. Please renew the API key."),
        make_refusal(
            400, "Incorrect API key provided. You can obtain an API key from https://x.test."
        ),
        make_refusal(403, "Your API key is invalid"),
        make_refusal(403, "Invalid X-API-Key"),
        make_refusal(400, "no", code="invalid_api_key"),
        make_refusal(403, "no", code="INVALID-API-KEY"),
    ],
    ids=lambda refusal: refusal.message,
)
def test_a_refusal_of_the_key_is_recognised(refusal: UpstreamRefused) -> None:
    assert is_key_refusal(refusal)


@check_each(
    "refusal",
    [
        make_refusal(400, "Invalid value for 'messages[0].role'."),
        make_refusal(400, "Unknown parameter: 'api_key'."),
        make_refusal(403, "Your account has no access to the model."),
        make_refusal(403, "Country, region, or territory not supported"),
        make_refusal(402, "Insufficient balance", code="invalid_api_key"),
        make_refusal(404, "No such model"),
        make_refusal(429, "Invalid API key"),
        make_refusal(500, "Incorrect API key"),
    ],
    ids=lambda refusal: refusal.message,
)
def test_other_refusals_are_not_key_refusals(refusal: UpstreamRefused) -> None:
    assert not is_key_refusal(refusal)


def make_settings(**environment: str) -> UpstreamSettings:
    variables = {"FORWARDER_UPSTREAMS": "deep-seek", "DEEP_SEEK_BASE_URL": "http://up.test/v1"}
    return Settings.from_env({**variables, **environment}).upstreams[0]


def make_registered_settings(**fields: Any) -> UpstreamSettings:
    return make_upstream_settings(
        "mine:latest", base_url="http://up.test/v1", registered=True, **fields
    )


@check_each(
    ("settings", "start"),
    [
        (
            make_settings(DEEP_SEEK_API_KEY="sk-0123456789"),
            "The upstream 'deep-seek' refuses the forwarder's key (DEEP_SEEK_API_KEY).",
        ),
        (
            make_settings(),
            "The upstream 'deep-seek' wants a key, and none is configured: "
            "DEEP_SEEK_API_KEY is not set.",
        ),
        (
            make_settings(DEEP_SEEK_API_KEY="sk-0", DEEP_SEEK_HEADERS="authorization: Basic x"),
            "The upstream 'deep-seek' refuses the forwarder's key (DEEP_SEEK_HEADERS).",
        ),
        (
            make_settings(DEEP_SEEK_HEADERS="X-Api-Key: secret"),
            "The upstream 'deep-seek' refuses the forwarder's key (DEEP_SEEK_HEADERS).",
        ),
        (
            make_settings(DEEP_SEEK_QUERY="key=secret"),
            "The upstream 'deep-seek' refuses the forwarder's key (DEEP_SEEK_QUERY).",
        ),
        (
            make_registered_settings(api_key="sk-0123456789"),
            "The remote of the model 'mine:latest' refuses the model's own key (remote_api_key).",
        ),
        (
            make_registered_settings(),
            "The remote of the model 'mine:latest' wants a key, and the model has none "
            "(remote_api_key).",
        ),
        (
            make_registered_settings(headers={"X-Api-Key": "secret"}),
            "The remote of the model 'mine:latest' refuses the model's own key (remote_headers).",
        ),
    ],
)
def test_the_message_names_the_setting_and_quotes_the_upstream(
    settings: UpstreamSettings, start: str
) -> None:
    error = make_key_refusal_error(make_refusal(401, "Invalid API Key."), settings)

    assert error.message == f"{start} It says: Invalid API Key."


@check_each(
    "key",
    [
        "sk-inval**************-key",
        "test-con****-key",
        "sk-proj-abcdefghijklmnop",
        "gsk_abcdefghijkl0123",
        "AIzaSyA1234567890abcdefg",
        "****7890",
    ],
)
def test_full_and_masked_keys_in_upstream_messages_are_redacted(key: str) -> None:
    refusal = make_refusal(
        401, f"Incorrect API key provided: {key}. Find yours at https://x.test/keys."
    )

    message = make_key_refusal_error(refusal, make_settings()).message

    assert message.endswith("Incorrect API key provided: ***. Find yours at https://x.test/keys.")


def test_long_words_are_cut() -> None:
    assert (
        len(make_key_refusal_error(make_refusal(401, "no " * 9999), make_settings()).message) < 700
    )
