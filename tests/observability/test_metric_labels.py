"""Limited label values of metrics."""

from __future__ import annotations

from forwarder.config.settings import Settings
from forwarder.observability.metric_labels import LabelSet, label_parameter, list_configured_models
from tests.helpers.check_cases import check_each


def test_known_labels_do_not_count_as_learned() -> None:
    names = LabelSet(["a"], max_learned=1)
    names.get_label("x")

    assert names.get_label("a", learn=False) == "a"


def test_learned_labels_are_limited() -> None:
    names = LabelSet(max_learned=3)

    labels = {names.get_label(f"made-up-{i}") for i in range(1000)}

    assert labels == {"made-up-0", "made-up-1", "made-up-2", "other"}
    assert names.get_label("made-up-1") == "made-up-1"


def test_unlearned_name_is_labelled_other() -> None:
    names = LabelSet()

    assert names.get_label("typo", learn=False) == "other"
    assert names.get_label("x" * 129) == "other"
    assert names.get_label("typo") == "typo"


@check_each("missing", [None, ""])
def test_missing_label_value_has_a_name(missing: str | None) -> None:
    assert LabelSet().get_label(missing) == "none"


def test_the_configuration_spells_out_models() -> None:
    settings = Settings.from_env(
        {
            "CHAT_BASE_URL": "http://x/v1",
            "CHAT_MODELS": "fast=qwen-turbo,qwen-*,m",
            "FORWARDER_DEFAULT_MODEL": "d",
        }
    )

    assert list_configured_models(settings) == {"qwen-turbo", "m", "d"}


@check_each(
    ("name", "label"),
    [
        ("seed", "seed"),
        ("tools.web_search", "tools"),
        ("reasoning.summary", "reasoning"),
        ("a client made this up", "other"),
        ("made.up", "other"),
        ("options.num_ctx", "options"),
        ("truncate", "truncate"),
    ],
)
def test_only_parameters_of_the_tables_are_labels(name: str, label: str) -> None:
    assert label_parameter(name) == label
