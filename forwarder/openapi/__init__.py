"""The OpenAPI document of all routes.

It is made of the tables that also validate requests: the parameters and their dispositions, the
errors and their statuses, the reasoning styles, and Flask's map of routes. The modules
``*_operations.py`` and ``*_schemas.py`` add the rest, for each API; `document.py` joins all. Types
of OpenAI's APIs are the SDK's; ``sdk_schemas.json`` is generated from them by ``tools/docgen``.
``viewer`` has the page that shows the document.
"""
