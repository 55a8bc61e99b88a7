"""A client of the Messages API served over a Responses upstream."""

from forwarder.translation.messages_over_responses.request import translate_request
from forwarder.translation.messages_over_responses.stream import translate_stream

__all__ = ["translate_request", "translate_stream"]
