"""Model names: routing to upstreams, model lists, and models registered at run time.

- `router.py`: resolves a model name to an upstream and the upstream's own model name.
- `catalog.py`: caches the model lists of the upstreams and serves them to clients.
- `codex.py`, `codex_headers.py`: the catalog entries and response headers that Codex reads.
- `registered_model.py`: a registered model, its name, create request and upstream settings.
- `registration.py`: validates, verifies and stores a registered model.
- `registry.py`: all registered models, shared by all workers.
- `health_probe.py`: checks the host, key and model of an upstream with one request.
- `upstream_health.py`: the last probe result of each upstream and registered model.
- `ollama_views.py`: models as responses of Ollama's API.
"""
