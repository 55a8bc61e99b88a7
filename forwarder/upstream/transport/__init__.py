"""The network below the SDK: bytes, connections and time-outs, no meaning."""
