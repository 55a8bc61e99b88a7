"""Ollama's API: ``/api/chat``, ``/api/generate`` and its two ways to embed."""

from __future__ import annotations

from flask import Blueprint, Response

from forwarder.server import openai

blueprint = Blueprint("ollama", __name__)


@blueprint.post("/chat")
def chat() -> Response:
    """A conversation, over whichever upstream the model leads to."""
    return openai.serve("ollama")


@blueprint.post("/generate")
def generate() -> Response:
    """The same for a single prompt."""
    return openai.serve("ollama_generate")


@blueprint.post("/embed")
def embed() -> Response:
    """Embeddings of texts, where the upstream has them."""
    return openai.serve_embeddings("ollama_embed")


@blueprint.post("/embeddings")
def embeddings() -> Response:
    """The older way to embed one text."""
    return openai.serve_embeddings("ollama_embeddings")
