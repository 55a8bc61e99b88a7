from __future__ import annotations

import pytest

from forwarder.core.errors import Unsupported
from forwarder.core.translation_context import LossReport


def test_loss_report_keeps_the_first_reason() -> None:
    ledger = LossReport()
    ledger.drop("seed", "first")
    ledger.drop("seed", "second")
    assert ledger.losses == {"seed": "first"}


def test_strict_mode_refuses_a_loss_and_names_the_parameter() -> None:
    ledger = LossReport(strict=True)
    with pytest.raises(Unsupported, match="'seed' cannot be carried: no way") as caught:
        ledger.drop("seed", "no way")
    assert caught.value.param == "seed"
    assert ledger.losses == {}


def test_local_parameter_is_not_a_loss() -> None:
    for ledger in (
        LossReport(local_parameters={"store"}),
        LossReport(strict=True, local_parameters={"store"}),
    ):
        ledger.drop("store", "why")
        ledger.note("store", "why")
        assert ledger.losses == {}
