"""Modules that depend on no wire API: types, errors, ids, encryption, limits of the process.

The exceptions are `error_kinds.py` and `error_classification.py`.  They hold the codes and wordings
by which providers report errors, because `UpstreamRefused` in `errors.py` needs them.
"""
