"""The built-in demo upstream: it speaks both APIs and needs neither key nor network.

The forwarder uses it when no upstream is configured. It replaces the network transport below the
SDK, so all other code works as with a real provider:

    openai.OpenAI(
        api_key="demo",
        base_url="http://demo.invalid/v1",
        http_client=httpx2.Client(transport=DemoTransport()),
    )

    transport ─▶ chat / responses    validate a request and parse it to a DemoPrompt
              ─▶ answer              make a deterministic DemoAnswer from the DemoPrompt
              ─▶ chat / responses    serialize the DemoAnswer, whole or as a stream

It validates requests as strictly as OpenAI does, marks every text as a demo, and keeps no state
between requests.
"""

from forwarder.demo.transport import DemoTransport

__all__ = ["DemoTransport"]
