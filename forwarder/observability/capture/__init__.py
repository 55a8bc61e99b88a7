"""Whole exchanges, kept to find mistakes by; off unless ``FORWARDER_CAPTURE`` says where.

tape          what passes, taken down as bytes while it passes; costs nothing when there is none
abridged      requests that are too large, without what makes them so
frames        those bytes as the JSON that people and programs read, and back
redaction     what nobody may read is blotted out
record        a tape as one JSON object, within its limit
shelves       where the records are: in memory, or in a directory
capturing     the observer of exchanges that does all this
playback      an upstream's recorded answers in its place
replay        a captured request once more, and how its answer differs
commands      that, in a terminal
"""
