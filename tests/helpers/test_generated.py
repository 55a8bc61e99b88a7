"""Generated requests match their types, and broken ones differ from the original."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import get_args

from openai.types.chat import ChatCompletionMessageParam
from openai.types.responses.response_input_item_param import ResponseInputItemParam

from tests.fake_provider import Answer
from tests.fake_provider.shape import check, list_fields
from tests.helpers import generated
from tests.helpers.check_cases import check_each

PROTOCOLS = ("chat", "responses")


@check_each("protocol", PROTOCOLS)
@check_each("seed", range(20))
def test_every_parameter_is_of_its_type(protocol: str, seed: int) -> None:
    for name, field in list_fields(generated.BASES[protocol]).items():
        value = generated.generate_value(Random(seed), field.type)

        assert check(value, field.type, name) == []


@check_each("kind", [ChatCompletionMessageParam, ResponseInputItemParam])
def test_every_member_of_a_union_is_generated(kind: object) -> None:
    values = [generated.generate_value(Random(seed), kind) for seed in range(4000)]

    for member in get_args(kind):
        assert any(check(value, member, "") == [] for value in values), member


@check_each("protocol", PROTOCOLS)
def test_requests_are_of_all_kinds(protocol: str) -> None:
    bodies = [generated.generate_request(Random(seed), protocol, "m") for seed in range(3000)]

    assert all(body["model"] == "m" for body in bodies)
    assert {body["stream"] for body in bodies} == {True, False}
    assert list_fields(generated.BASES[protocol]).keys() <= {
        name for body in bodies for name in body
    }


def test_broken_value_is_a_changed_copy() -> None:
    document = {"a": [{"b": 1, "type": "x"}, "c"], "d": None}
    document_before = copy.deepcopy(document)

    broken_documents = [generated.break_document(Random(seed), document) for seed in range(200)]

    assert document == document_before
    assert sum(json.dumps(each) != json.dumps(document) for each in broken_documents) > 150
    assert all(
        json.loads(generated.encode_json(each)) is not None
        for each in broken_documents
        if "deep" not in str(each)
    )


def test_deep_marker_is_encoded_as_nested_lists() -> None:
    text = generated.encode_json({"a": generated.DEEP}).decode()
    assert text == '{"a": ' + "[" * 600 + "]" * 600 + "}"


@check_each("protocol", PROTOCOLS)
def test_events_come_from_answers_and_from_cases(protocol: generated.Protocol) -> None:
    streams = [
        generated.generate_events(Random(seed), protocol, Answer(text="Hi")) for seed in range(100)
    ]

    assert len({json.dumps(events) for events in streams}) > 10
    body = generated.frame_events(Random(1), streams[0])
    assert body.count(b"data: ") in (len(streams[0]), len(streams[0]) + 1)
