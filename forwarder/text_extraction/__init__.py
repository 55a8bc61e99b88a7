"""Readable text of files and web pages, which a process of its own extracts.

`extract.py` is the program, which has the parsers. `extraction_process.py` runs it, so that a
broken or hostile document cannot stop, slow down or harm the worker.
"""
