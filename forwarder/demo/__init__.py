"""A built-in upstream that speaks both APIs and needs neither key nor network.

It is what the forwarder starts on when no upstream is configured. It stands where a socket
would, below the SDK, so every other room works as it does with a real provider:

    openai.OpenAI(
        api_key="demo",
        base_url="http://demo.invalid/v1",
        http_client=httpx2.Client(transport=DemoTransport()),
    )

    transport ─▶ chat_request / responses_request   a request, checked and read as a Prompt
              ─▶ answer                             a Prompt becomes an Answer, deterministic
              ─▶ chat_reply / responses_reply       an Answer, whole or as a stream

It is as strict as OpenAI about what it reads, says in every text that it is a demo, and keeps
nothing between requests.
"""

from forwarder.demo.transport import DemoTransport

__all__ = ["DemoTransport"]
