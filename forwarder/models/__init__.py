"""Models of other providers that are registered while the forwarder runs, each with its own key.

- `names.py`: a name with ``:latest`` and without is one;
- `remote.py`: a registered model, from the request that creates it to the upstream that it is;
- `defaults.py`: its parameters and its system prompt, where a client gave none;
- `registry.py`: all of them, the same for every worker at once;
- `checking.py`: is the host there, is the key accepted, is the model known;
- `shapes.py`: what Ollama's clients are told of models.
"""
