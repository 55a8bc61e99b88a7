"""Parts that know no wire API: types, errors, ids, encryption, limits of the process.

The exceptions are `error_kinds.py` and `error_classification.py`, with the codes and wordings by
which providers report errors: `UpstreamRefused` of `errors.py` is classified by them.
"""
