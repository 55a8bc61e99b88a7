"""Every parameter of Ollama's package has a fate, and every fate that is told is true."""

from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.types import EventStream, Json
from forwarder.protocols.ollama_parameters import EMBEDDING_TABLES, OLLAMA_TABLES, flatten_options
from forwarder.protocols.parameters import Disposition
from forwarder.translation import translate_handler
from tests.helpers.translating import terms

TABLES = {**OLLAMA_TABLES, **EMBEDDING_TABLES}
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
EMBEDDED = {"data": [{"embedding": [1.0]}]}
CHUNK = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}


def fates(*kinds: str) -> list[Any]:
    return [
        pytest.param(client, name, fate, id=f"{client}-{name}")
        for client, table in TABLES.items()
        for name, fate in table.items()
        if not kinds or fate.kind in kinds
    ]


def sample(fate: Disposition) -> Any:
    return SAMPLES[fate.types[0]] if fate.types else 7


def nested(client: str, name: str, value: Any) -> Json:
    """A request with this parameter where the client has it."""
    inner = name.removeprefix("options.")
    given = {name: value} if inner == name else {"options": {inner: value}}
    return {**REQUESTS[client], **given}


def asked(client: str, request: Json, **its: Any) -> tuple[Json, dict[str, str]]:
    """What the upstream is asked, and what is dropped."""
    its_terms = terms(**its)
    sent: list[Json] = []

    def call(body: Json) -> EventStream:
        sent.append(body)
        return iter([[CHUNK if client in OLLAMA_TABLES else EMBEDDED]])

    upstream = "chat" if client in OLLAMA_TABLES else "embeddings"
    list(translate_handler(call, client, upstream, its_terms)(request))
    return sent[0], its_terms.loss_report.losses


@pytest.mark.parametrize("client", TABLES)
def test_every_parameter_of_the_package_has_a_disposition(client: str) -> None:
    ollama = pytest.importorskip("ollama._types")
    known = set(getattr(ollama, TYPES[client]).model_fields) - {"options"}
    known |= {f"options.{name}" for name in ollama.Options.model_fields}
    assert known - TABLES[client].keys() == set()


@pytest.mark.parametrize(
    ("client", "name", "fate"), fates("dropped", "refused", "mapped", "local", "offered")
)
def test_every_other_disposition_than_carried_has_a_reason(
    client: str, name: str, fate: Disposition
) -> None:
    assert fate.reason


@pytest.mark.parametrize(("client", "name", "fate"), fates("dropped", "offered"))
def test_dropped_parameters_are_reported_or_refused(
    client: str, name: str, fate: Disposition
) -> None:
    request = nested(client, name, sample(fate))
    assert asked(client, request)[1] == {name: fate.reason}
    with pytest.raises(Unsupported) as caught:
        asked(client, request, strict=True)
    assert caught.value.param == name


@pytest.mark.parametrize(("client", "name", "fate"), fates("offered"))
def test_offered_parameters_reach_upstreams_that_take_them(
    client: str, name: str, fate: Disposition
) -> None:
    inner = name.removeprefix("options.")
    sent, dropped = asked(client, nested(client, name, sample(fate)), extensions={inner})
    assert (sent[inner], dropped) == (sample(fate), {})


@pytest.mark.parametrize(("client", "name", "fate"), fates("dropped", "refused", "offered"))
def test_neutral_values_are_not_reported(client: str, name: str, fate: Disposition) -> None:
    for value in (None, *fate.neutral):
        assert asked(client, nested(client, name, value), strict=True)[1] == {}


@pytest.mark.parametrize(("client", "name", "fate"), fates("refused"))
def test_refused_parameter_is_a_400_that_names_it(
    client: str, name: str, fate: Disposition
) -> None:
    with pytest.raises(Unsupported, match=name) as caught:
        asked(client, nested(client, name, sample(fate)))
    assert (caught.value.status, caught.value.param) == (400, name)


@pytest.mark.parametrize(("client", "name", "fate"), fates())
def test_wrong_type_is_a_400_that_names_the_parameter(
    client: str, name: str, fate: Disposition
) -> None:
    if not fate.types:
        return
    wrong = next(value for kind, value in SAMPLES.items() if kind not in fate.types)
    with pytest.raises(InvalidRequest) as caught:
        asked(client, nested(client, name, wrong))
    assert (caught.value.param, caught.value.code) == (name, "invalid_type")


@pytest.mark.parametrize("client", TABLES)
def test_unknown_parameter_is_dropped(client: str) -> None:
    request = {**REQUESTS[client], "unheard_of": 1, "options": {"of_this_too": 2}}
    assert set(asked(client, request)[1]) == {"unheard_of", "options.of_this_too"}


def test_flatten_options() -> None:
    given = {"model": "m", "options": {"seed": 1}}
    assert flatten_options(given) == {"model": "m", "options.seed": 1}
    assert flatten_options({"model": "m", "options": None}) == {"model": "m"}
    with pytest.raises(InvalidRequest):
        flatten_options({"options": 7})
