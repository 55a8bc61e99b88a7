"""The workloads ask for the shape that they are checked against."""

from __future__ import annotations

import pytest

from bench.shape import Shape, make_argument_pieces, make_words
from bench.workloads import CLIENTS, WORKLOADS, Workload
from tests.helpers.check_cases import check_each


@check_each("client", CLIENTS)
@check_each("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_the_model_of_a_request_names_its_shape(workload: Workload, client: str):
    assert Shape.parse(workload.make_body(client)["model"]) == workload.shape


def test_passing_through_names_the_upstream_and_keeps_the_protocol():
    workload = Workload("w", "", Shape(text=1), 1, 1, passthrough=True)
    assert workload.make_body("chat")["model"] == "chat/bench-0-1-0-0"
    assert [workload.get_upstream(client) for client in CLIENTS] == list(CLIENTS)


def test_every_workload_has_a_name_of_its_own():
    assert len({workload.name for workload in WORKLOADS}) == len(WORKLOADS)


def test_a_model_of_no_shape_is_refused():
    with pytest.raises(ValueError, match="gpt-5"):
        Shape.parse("gpt-5")


def test_there_are_as_many_pieces_as_asked_for():
    assert [len(make_words(n)) for n in range(5)] == [0, 1, 2, 3, 4]
    assert [len(make_argument_pieces(n)) for n in range(5)] == [0, 1, 2, 3, 4]
