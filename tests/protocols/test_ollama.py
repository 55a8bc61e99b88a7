"""Every parameter of Ollama's package has a disposition that matches the behaviour."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.types import EventStream, Json
from forwarder.protocols.ollama import (
    OLLAMA_EMBEDDING_PROTOCOLS,
    OLLAMA_PROTOCOLS,
    flatten_options,
)
from forwarder.protocols.parameters import Disposition
from forwarder.protocols.registry import CLIENT_PROTOCOLS
from forwarder.translation import translate_handler
from tests.helpers.check_cases import check_each
from tests.helpers.packages import import_client
from tests.helpers.translating import make_translator_context

TABLES = {
    protocol.name: protocol.parameters
    for protocol in (*OLLAMA_PROTOCOLS, *OLLAMA_EMBEDDING_PROTOCOLS)
}
REQUESTS: dict[str, Json] = {
    "ollama": {"model": "m", "messages": [{"role": "user", "content": "Hi."}]},
    "ollama_generate": {"model": "m", "prompt": "Hi."},
    "ollama_embed": {"model": "m", "input": "Hi."},
    "ollama_embeddings": {"model": "m", "prompt": "Hi."},
}
TYPES = {
    "ollama": "ChatRequest",
    "ollama_generate": "GenerateRequest",
    "ollama_embed": "EmbedRequest",
    "ollama_embeddings": "EmbeddingsRequest",
}
SAMPLES: dict[type, Any] = {str: "x", int: 7, float: 0.5, bool: True, list: [1], dict: {"a": 1}}
EMBEDDINGS = {"data": [{"embedding": [1.0]}]}
CHUNK = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}


def list_rows(*kinds: str) -> list[Any]:
    return [
        pytest.param(client, name, disposition, id=f"{client}-{name}")
        for client, table in TABLES.items()
        for name, disposition in table.items()
        if not kinds or disposition.kind in kinds
    ]


def make_sample(disposition: Disposition) -> Any:
    return SAMPLES[disposition.types[0]] if disposition.types else 7


def make_request(client: str, name: str, value: Any) -> Json:
    """Return a request with this parameter, nested if it is an option."""
    inner = name.removeprefix("options.")
    fields = {name: value} if inner == name else {"options": {inner: value}}
    return {**REQUESTS[client], **fields}


def translate_request(client: str, request: Json, **options: Any) -> tuple[Json, dict[str, str]]:
    """Return the upstream request and the losses."""
    context = make_translator_context(**options)
    upstream_requests: list[Json] = []

    def handler(body: Json) -> EventStream:
        upstream_requests.append(body)
        return iter([[CHUNK if client in CLIENT_PROTOCOLS else EMBEDDINGS]])

    upstream = "chat" if client in CLIENT_PROTOCOLS else "embeddings"
    list(translate_handler(handler, client, upstream, context)(request))
    return upstream_requests[0], context.loss_report.losses


@check_each("client", TABLES)
def test_every_parameter_of_the_package_has_a_disposition(client: str) -> None:
    ollama = import_client("ollama._types")
    package_parameters = set(getattr(ollama, TYPES[client]).model_fields) - {"options"}
    package_parameters |= {f"options.{name}" for name in ollama.Options.model_fields}
    assert package_parameters - TABLES[client].keys() == set()


@check_each(
    ("client", "name", "disposition"), list_rows("dropped", "refused", "mapped", "local", "offered")
)
def test_dispositions_except_carried_have_a_reason(
    client: str, name: str, disposition: Disposition
) -> None:
    assert disposition.reason


@check_each(("client", "name", "disposition"), list_rows("dropped", "offered"))
def test_dropped_parameters_are_reported_or_refused(
    client: str, name: str, disposition: Disposition
) -> None:
    request = make_request(client, name, make_sample(disposition))
    assert translate_request(client, request)[1] == {name: disposition.reason}
    with pytest.raises(Unsupported) as caught:
        translate_request(client, request, strict=True)
    assert caught.value.param == name


@check_each(("client", "name", "disposition"), list_rows("offered"))
def test_offered_parameters_are_sent_to_upstreams_that_accept_them(
    client: str, name: str, disposition: Disposition
) -> None:
    inner = name.removeprefix("options.")
    upstream_request, dropped = translate_request(
        client, make_request(client, name, make_sample(disposition)), extensions={inner}
    )
    assert (upstream_request[inner], dropped) == (make_sample(disposition), {})


@check_each(("client", "name", "disposition"), list_rows("dropped", "refused", "offered"))
def test_neutral_values_are_not_reported(client: str, name: str, disposition: Disposition) -> None:
    for value in (None, *disposition.neutral):
        assert translate_request(client, make_request(client, name, value), strict=True)[1] == {}


@check_each(("client", "name", "disposition"), list_rows("refused"))
def test_refused_parameter_is_rejected_by_name(
    client: str, name: str, disposition: Disposition
) -> None:
    with pytest.raises(Unsupported, match=name) as caught:
        translate_request(client, make_request(client, name, make_sample(disposition)))
    assert (caught.value.status, caught.value.param) == (400, name)


@check_each(("client", "name", "disposition"), list_rows())
def test_wrong_type_is_rejected_by_name(client: str, name: str, disposition: Disposition) -> None:
    if not disposition.types:
        return
    wrong_value = next(value for kind, value in SAMPLES.items() if kind not in disposition.types)
    with pytest.raises(InvalidRequest) as caught:
        translate_request(client, make_request(client, name, wrong_value))
    assert (caught.value.param, caught.value.code) == (name, "invalid_type")


@check_each("client", TABLES)
def test_unknown_parameter_is_dropped(client: str) -> None:
    request = {**REQUESTS[client], "unheard_of": 1, "options": {"of_this_too": 2}}
    assert set(translate_request(client, request)[1]) == {"unheard_of", "options.of_this_too"}


def test_flatten_options() -> None:
    fields = {"model": "m", "options": {"seed": 1}}
    assert flatten_options(fields) == {"model": "m", "options.seed": 1}
    assert flatten_options({"model": "m", "options": None}) == {"model": "m"}
    with pytest.raises(InvalidRequest):
        flatten_options({"options": 7})
