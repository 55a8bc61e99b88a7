from __future__ import annotations

import re
import time

from forwarder.mint import MINT, random_id


def test_an_id_is_its_prefix_and_128_random_bits() -> None:
    assert re.fullmatch(r"msg_[0-9a-f]{32}", random_id("msg"))


def test_no_two_ids_are_the_same() -> None:
    assert len({MINT.id("resp") for _ in range(1000)}) == 1000


def test_time_is_in_whole_seconds() -> None:
    before = int(time.time())
    now = MINT.now()
    assert type(now) is int
    assert before <= now <= time.time()
