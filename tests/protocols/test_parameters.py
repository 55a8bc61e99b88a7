from __future__ import annotations

from typing import Any

import pytest

from forwarder.core.errors import InvalidRequest, Unsupported
from forwarder.core.translation_context import LossReport
from forwarder.protocols.parameters import (
    CHAT_OVER_RESPONSES,
    RESPONSES_OVER_CHAT,
    Disposition,
    carry,
    drop,
    emulate,
    keep_local,
    offer,
    refuse,
    remap,
    validate_parameters,
)
from tests.helpers.check_cases import check_each
from tests.helpers.sdk import REQUEST_PARAMETERS
from tests.helpers.translating import make_translator_context, translate

TABLES = {"responses_over_chat": RESPONSES_OVER_CHAT, "chat_over_responses": CHAT_OVER_RESPONSES}
CLIENTS = {"responses_over_chat": "responses", "chat_over_responses": "chat"}
REQUESTS: dict[str, dict[str, Any]] = {
    "responses_over_chat": {"model": "some-model", "input": "Hi."},
    "chat_over_responses": {
        "model": "some-model",
        "messages": [{"role": "user", "content": "Hi."}],
    },
}
SAMPLES: dict[type, Any] = {
    str: "x", int: 7, float: 0.5, bool: True, list: [{"a": 1}], dict: {"a": 1},
}  # fmt: skip


def list_rows(*kinds: str) -> list[Any]:
    return [
        pytest.param(direction, name, disposition, id=f"{name}-{direction}")
        for direction, table in TABLES.items()
        for name, disposition in table.items()
        if disposition.kind in kinds
    ]


def list_losses(direction: str, name: str, value: Any, strict: bool = False) -> dict[str, str]:
    """Return the losses of a request with this parameter."""
    request = {**REQUESTS[direction], name: value}
    return translate(direction, request, make_translator_context(strict=strict)).dropped


@check_each("direction", TABLES)
def test_every_sdk_parameter_has_a_disposition(direction: str) -> None:
    sdk_parameters = REQUEST_PARAMETERS[CLIENTS[direction]]
    assert sdk_parameters - TABLES[direction].keys() == set()


@check_each("direction", TABLES)
def test_parameters_beyond_the_sdk_are_known_exceptions(direction: str) -> None:
    extra_parameters = TABLES[direction].keys() - REQUEST_PARAMETERS[CLIENTS[direction]]
    penalties = {"frequency_penalty", "presence_penalty"}  # in the Open Responses schema, too
    assert extra_parameters <= penalties | {"logit_bias", "seed", "stop"} | {
        "client_metadata"
    }  # Codex's


@check_each(
    ("direction", "name", "disposition"),
    list_rows("dropped", "refused", "mapped", "local", "emulated", "offered"),
)
def test_dispositions_except_carried_have_a_reason(
    direction: str, name: str, disposition: Disposition
) -> None:
    assert disposition.reason


@check_each(("direction", "name", "disposition"), list_rows("carried"))
def test_carried_parameter_is_unchanged(
    direction: str, name: str, disposition: Disposition
) -> None:
    value = SAMPLES[disposition.types[0]]
    request = {**REQUESTS[direction], name: value, "tools": _ONE_TOOL[direction]}
    assert translate(direction, request, make_translator_context()).request[name] == value


_ONE_TOOL = {
    "responses_over_chat": [{"type": "function", "name": "f"}],
    "chat_over_responses": [{"type": "function", "function": {"name": "f"}}],
}


@check_each(("direction", "name", "disposition"), list_rows("dropped", "offered"))
def test_dropped_parameter_is_reported(direction: str, name: str, disposition: Disposition) -> None:
    assert list_losses(direction, name, SAMPLES[disposition.types[0]]) == {name: disposition.reason}


@check_each(("direction", "name", "disposition"), list_rows("dropped", "offered"))
def test_strict_mode_refuses_dropped_parameter(
    direction: str, name: str, disposition: Disposition
) -> None:
    with pytest.raises(Unsupported) as caught:
        list_losses(direction, name, SAMPLES[disposition.types[0]], strict=True)
    assert caught.value.status == 400
    assert caught.value.param == name


@check_each(("direction", "name", "disposition"), list_rows("refused"))
def test_refused_parameter_is_rejected_by_name(
    direction: str, name: str, disposition: Disposition
) -> None:
    with pytest.raises((Unsupported, InvalidRequest)) as caught:
        list_losses(direction, name, SAMPLES[disposition.types[0]])
    assert caught.value.status == 400
    assert caught.value.param == name
    assert caught.value.code


@check_each(("direction", "name", "disposition"), list_rows("dropped", "refused", "offered"))
def test_neutral_values_are_not_reported(
    direction: str, name: str, disposition: Disposition
) -> None:
    for value in (None, *disposition.neutral):
        assert list_losses(direction, name, value, strict=True) == {}


@check_each(
    ("direction", "name", "disposition"),
    list_rows("carried", "mapped", "local", "emulated", "dropped", "refused", "offered"),
)
def test_wrong_type_is_rejected_by_name(
    direction: str, name: str, disposition: Disposition
) -> None:
    wrong_value = next(value for kind, value in SAMPLES.items() if kind not in disposition.types)
    with pytest.raises(InvalidRequest) as caught:
        list_losses(direction, name, wrong_value)
    assert (caught.value.param, caught.value.code) == (name, "invalid_type")


@check_each("direction", TABLES)
def test_unknown_parameter_is_dropped(direction: str) -> None:
    assert set(list_losses(direction, "unheard_of", 1)) == {"unheard_of"}
    with pytest.raises(Unsupported):
        list_losses(direction, "unheard_of", 1, strict=True)


def test_validate_parameters_yields_carried_and_mapped() -> None:
    table = {
        "a": carry((int,)),
        "b": remap((int,), "renamed"),
        "c": keep_local((int,), "ours"),
        "d": drop((int,), "no counterpart", 0),
        "g": emulate((int,), "done by a middleware"),
        "e": refuse((int,), "no way", 0),
        "h": offer((int,), "not here", 0),
        "i": offer((int,), "not here", 0),
    }
    loss_report = LossReport()
    request = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 0, "f": None, "g": 5, "h": 6, "i": 7, "j": 8}
    passed = validate_parameters(request, table, loss_report, extensions=("h", "j", "c", "d"))
    assert list(passed) == [("a", 1), ("b", 2), ("h", 6), ("j", 8)]
    assert loss_report.losses == {"d": "no counterpart", "i": "not here"}
