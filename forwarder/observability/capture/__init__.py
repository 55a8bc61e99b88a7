"""Captures whole exchanges (request, upstream requests, answers) for debugging.

Capturing is off unless ``FORWARDER_CAPTURE`` is set. The recorder of an exchange
(`forwarder.context.recorder`) collects raw bytes while they pass through.

- `observer.py`: starts recorders and stores their records.
- `record.py`: makes one redacted JSON record of limited size from a recorder.
- `serialize.py`: converts answer bytes to readable JSON and back.
- `stores.py`: stores records in memory or in a directory.
- `playback.py`: serves recorded upstream answers in place of the network.
- `replay.py`: repeats a captured request and compares the answers.
"""
