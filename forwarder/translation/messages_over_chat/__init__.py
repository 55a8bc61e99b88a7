"""A client of the Messages API served over a Chat upstream."""

from forwarder.translation.messages_over_chat.request import translate_request
from forwarder.translation.messages_over_chat.stream import translate_stream

__all__ = ["translate_request", "translate_stream"]
