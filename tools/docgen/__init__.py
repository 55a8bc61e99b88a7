"""Writes those parts of the documentation that repeat tables of the code.

``python -m tools.docgen --write`` renews them in ``docs/``; without ``--write`` it prints them.
"""
