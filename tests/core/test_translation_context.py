from __future__ import annotations

import pytest

from forwarder.core.errors import Unsupported
from forwarder.core.translation_context import LossReport


def test_loss_report_keeps_the_first_reason() -> None:
    report = LossReport()
    report.drop("seed", "first")
    report.drop("seed", "second")
    assert report.losses == {"seed": "first"}


def test_strict_mode_refuses_a_loss_and_names_the_parameter() -> None:
    report = LossReport(strict=True)
    with pytest.raises(Unsupported, match="'seed' cannot be carried: no way") as caught:
        report.drop("seed", "no way")
    assert caught.value.param == "seed"
    assert report.losses == {}


def test_local_parameter_is_not_a_loss() -> None:
    for report in (
        LossReport(local_parameters={"store"}),
        LossReport(strict=True, local_parameters={"store"}),
    ):
        report.drop("store", "why")
        report.note("store", "why")
        assert report.losses == {}
