"""Ollama's API for clients: ``/api/chat``, ``/api/generate``, ``/api/embed[dings]``."""

from __future__ import annotations

from flask import Blueprint, Response

from forwarder.server import openai

blueprint = Blueprint("ollama", __name__)


@blueprint.post("/chat")
def chat() -> Response:
    """Answer a conversation."""
    return openai.serve("ollama")


@blueprint.post("/generate")
def generate() -> Response:
    """Answer a single prompt."""
    return openai.serve("ollama_generate")


@blueprint.post("/embed")
def embed() -> Response:
    """Return embeddings of one or several texts."""
    return openai.serve_embeddings("ollama_embed")


@blueprint.post("/embeddings")
def embeddings() -> Response:
    """Return the embedding of one text (Ollama's older API)."""
    return openai.serve_embeddings("ollama_embeddings")
