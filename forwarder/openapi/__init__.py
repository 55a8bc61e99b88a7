"""The OpenAPI document of all routes.

It is built from the tables that also validate requests: the parameters and their dispositions, the
errors and their statuses, the reasoning styles, and Flask's map of routes. The modules
``*_operations.py`` and ``*_schemas.py`` add the rest for each API; `document.py` combines them.
The types of OpenAI's APIs come from the SDK: ``tools/docgen`` generates ``sdk_schemas.json``.
``viewer`` has the page that shows the document.
"""
