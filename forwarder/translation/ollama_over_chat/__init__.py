"""An Ollama client served over a Chat call, whatever that is served over in its turn."""

from forwarder.translation.ollama_over_chat.request import translate_request
from forwarder.translation.ollama_over_chat.stream import translate_stream

__all__ = ["translate_request", "translate_stream"]
