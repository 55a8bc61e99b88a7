"""Repositories: the named operations on stored data. Each method is one transaction.

All other packages use these classes; only the modules here compose the statements of `storage.db`.
A module of `storage.db` knows the rows of one table, a repository all steps of an operation:
storing a response, for example, also appends it to its conversation and releases the lock of the
turn.
"""
