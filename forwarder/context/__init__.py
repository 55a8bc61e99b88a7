"""The state of one request while it is served: context, identity, recorder and redaction."""
