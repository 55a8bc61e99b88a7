"""Generates the parts of the documentation that come from tables in the code.

``python -m tools.docgen --write`` updates them in ``docs/``; without ``--write`` it prints them.
"""
