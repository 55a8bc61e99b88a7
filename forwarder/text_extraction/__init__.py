"""Extracts the readable text of files and web pages in a separate process.

`extract.py` is the program with the parsers. `extraction_process.py` runs it. A broken or hostile
document can therefore not stop, slow down or harm the worker.
"""
