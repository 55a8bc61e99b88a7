from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

from forwarder.core.ids import ID_SOURCE, generate_id


def test_an_id_is_its_prefix_and_128_random_bits() -> None:
    assert re.fullmatch(r"msg_[0-9a-f]{32}", generate_id("msg"))


def test_no_two_ids_are_the_same() -> None:
    assert len({ID_SOURCE.new_id("resp") for _ in range(1000)}) == 1000


def test_time_is_in_whole_seconds() -> None:
    before = int(time.time())
    now = ID_SOURCE.now()
    assert type(now) is int
    assert before <= now <= time.time()


def test_timestamp_is_utc_in_the_format_of_rfc_3339() -> None:
    stamp = ID_SOURCE.timestamp()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", stamp)
    time = datetime.fromisoformat(stamp)
    assert time.utcoffset() == timedelta(0)
    assert abs((datetime.now(UTC) - time).total_seconds()) < 60


def test_the_clock_never_goes_back() -> None:
    readings = [ID_SOURCE.monotonic_ns() for _ in range(1000)]
    assert readings == sorted(readings)
    assert readings[0] > 0
