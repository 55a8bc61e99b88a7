"""Disk space of form files is limited and released."""

from __future__ import annotations

import pytest

from forwarder.core.errors import Overloaded
from forwarder.core.form_disk_limit import FormDiskLimit, FormDiskReservation


def test_forms_share_the_disk() -> None:
    disk = FormDiskLimit(100)
    one, other = FormDiskReservation(disk), FormDiskReservation(disk)
    one.take(60)
    with pytest.raises(Overloaded, match=r"100 bytes, limit: FORWARDER_MAX_FORM_FILES") as refused:
        other.take(41)
    assert refused.value.status == 503
    other.take(40)
    one.release()
    one.release()
    assert disk.used == 40
