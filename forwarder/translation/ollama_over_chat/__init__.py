"""An Ollama client served over a Chat handler, which may itself be a translation."""

from forwarder.translation.ollama_over_chat.request import translate_request
from forwarder.translation.ollama_over_chat.stream import translate_stream

__all__ = ["translate_request", "translate_stream"]
