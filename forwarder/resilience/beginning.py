"""The beginning of an answer: until its first batch there is time for another try, and a status."""

from __future__ import annotations

import itertools

from forwarder.resilience.verdicts import is_worth_retry
from forwarder.translate.call import Batch, Stream
from forwarder.translate.vocabulary import failure


def begun(stream: Stream) -> Stream:
    """The stream with its first batch read, which may be a silence of some seconds.

    Raises what breaks before that, and the failure that a Responses upstream begins with.
    """
    first = next(stream, None)
    if first is None:
        return stream
    if first and first[-1].get("type") == "response.failed":
        _judge(first)
    return itertools.chain([first], stream)


def _judge(batch: Batch) -> None:
    """Raise for a response that failed before it said anything, when asking again may help."""
    if any("response" not in event for event in batch):
        return
    error = failure(batch[-1]["response"].get("error"))
    if is_worth_retry(error):
        raise error
