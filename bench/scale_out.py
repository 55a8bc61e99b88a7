"""Checks the promises of two machines behind nginx under load: ``python -m bench.scale_out``."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import orjson
import psycopg
from openai import (
    APIConnectionError,
    APIStatusError,
    AsyncOpenAI,
    DefaultAsyncHttpxClient,
    OpenAIError,
)

from bench.cluster import ADMIN_KEY, Cluster, Machine, run_cluster
from bench.conversations import (
    SINGLE,
    SINGLE_USAGE,
    CheckingProvider,
    Conversation,
    Prompt,
    Turn,
    pair_turns,
)
from bench.promises import (
    KeyTimes,
    Limited,
    Options,
    Outcome,
    Result,
    UsageComparison,
    format_report,
    list_faults,
)
from tests.fake_provider.history import text_of

_ABOUT = """\
Run two machines of the forwarder (a gunicorn each, with a port and a directory of its own) behind
nginx with deploy/nginx.conf, over a PostgreSQL and a Redis of their own, and load them. One machine
is killed (SIGKILL of its process group) in the middle, and started again later.

Clients are the openai SDK with its retries. They keep conversations by previous_response_id and by
conversation objects, with streamed, whole and background answers. Each request is checked at the
provider: it must contain all turns that the client has received. Afterwards every answer is read
again. Meanwhile one key reaches its limit of requests a minute and one its limit of tokens, and
keys are made and revoked.

The promises:
  - no turn is lost: what a client has received stays in the conversation;
  - every background response completes;
  - limits are exact within 1 %;
  - a key is effective on all machines when the command that made it ends, and a revoked one is
    refused;
  - only the kill causes errors, and clients recover from them;
  - usage is what the provider has counted, without at most one interval of the killed machine.

exit status: 0 if all promises were kept, 1 otherwise. Needs PostgreSQL, Redis and nginx."""

MODELS = ("chat/bench", "responses/bench")
USAGE_INTERVAL = 5.0
"""FORWARDER_USAGE_INTERVAL in seconds. A killed machine may lose the usage of one interval."""

_TIMEOUT_SECONDS = 120.0
"""Seconds after which a turn or a background response counts as lost."""

_POLL_SECONDS = 0.3
_RETRY_SECONDS = 1.0
_WINDOW_SECONDS = 60.0
"""The window of a limit, which begins with the first request."""

_LIMIT_SECONDS = 50.0
"""Maximum duration of the test of limits, which must fit into one window."""

_TURNS = 12
"""Turns of a conversation, after which the client begins another one."""

_LONGEST_ANSWER = 5.0
"""Seconds within which the provider's answer arrives, even on a busy machine."""

LOST_CODES = ("previous_response_not_found", "previous_response_not_completed", "not_found")


class CutAnswer(Exception):
    """A stream ended without its terminal event."""


class Load:
    """Sends all requests and records their outcomes."""

    def __init__(self, cluster: Cluster, provider: CheckingProvider, options: Options) -> None:
        self.outcome = Outcome()
        self.conversations: list[Conversation] = []
        self.end = time.monotonic() + options.seconds
        self._cluster = cluster
        self._provider = provider
        self._options = options
        self.http: Any = None
        self._random = Random(options.seed)
        self._numbers = itertools.count()
        self._keys: dict[str, str] = {}

    # -- HTTP -------------------------------------------------------------------------------------

    def make_client(self, name: str, retries: int = 2) -> AsyncOpenAI:
        """Return the SDK with the key of a client, through nginx."""
        return AsyncOpenAI(
            api_key=self._keys[name],
            base_url=f"{self._cluster.url}/v1",
            http_client=self.http,
            max_retries=retries,
        )

    async def count_response(self, response: Any) -> None:
        """Count a response, and its error if it has one."""
        self.outcome.requests += 1
        if response.status_code >= 400:
            await response.aread()
            self.outcome.http_errors[name_error(response)] += 1

    async def administer(self, machine: Machine, method: str, path: str, **options: Any) -> Any:
        """Send an administrator's request to a machine; returns the answer's JSON."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        url = f"{machine.url}/forwarder{path}"
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            response = await http.request(method, url, headers=headers, **options)
        response.raise_for_status()
        return response.json()

    def pick_machine(self) -> Machine:
        """Return one of the machines that run."""
        return self._random.choice([each for each in self._cluster.machines if each.is_up])

    async def make_key(self, name: str, **limits: int) -> None:
        body = {"name": name, **limits}
        key = await self.administer(self.pick_machine(), "POST", "/keys", json=body)
        self._keys[name] = key["key"]

    # -- conversations ----------------------------------------------------------------------------

    async def keep_conversations(self, client_name: str, has_object: bool) -> None:
        """Keep one conversation after the other until the end of the load."""
        client = self.make_client(client_name)
        while time.monotonic() < self.end:
            name = f"c{next(self._numbers)}"
            conversation = Conversation(client_name, name, self._options.words)
            if has_object:
                conversation.id = await self._create_with_retries(
                    lambda: client.conversations.create()
                )
            self._provider.conversations[name] = conversation
            self.conversations.append(conversation)
            model = MODELS[self._random.random() < 0.5]
            while len(conversation.acknowledged) < _TURNS and time.monotonic() < self.end:
                mode = self._random.choice(("streamed", "streamed", "whole", "background"))
                if not await self._take_turn(client, conversation, model, mode):
                    break

    async def _create_with_retries(self, create: Callable[[], Awaitable[Any]]) -> str:
        """Create an object, with retries after errors as in a real program. Returns its id."""
        while True:
            try:
                return str((await create()).id)
            except (OpenAIError, httpx2.HTTPError) as error:
                self.outcome.program_errors[name_failure(error)] += 1
                await asyncio.sleep(_RETRY_SECONDS)

    async def _take_turn(
        self, client: AsyncOpenAI, conversation: Conversation, model: str, mode: str
    ) -> bool:
        """Take a turn, with retries after errors. Returns whether the client got an answer."""
        give_up_at = time.monotonic() + _TIMEOUT_SECONDS
        while True:
            prompt = conversation.make_prompt()
            try:
                turn = await self._send_turn(client, conversation, model, mode, prompt)
            except (OpenAIError, httpx2.HTTPError, CutAnswer) as error:
                self.outcome.program_errors[name_failure(error)] += 1
                if getattr(error, "code", None) in LOST_CODES:
                    self.outcome.lost.append(f"{conversation.name}: {error}")
                    return False
                if time.monotonic() > give_up_at:
                    self.outcome.faults.append(f"{conversation.name}: no answer: {error!r}")
                    return False
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if turn is None:
                return False
            if turn.answer != conversation.make_answer(prompt):
                self.outcome.faults.append(f"{conversation.name}: another answer: {turn.answer!r}")
                return False
            conversation.acknowledged.append(turn)
            self.outcome.turns[mode] += 1
            return True

    async def _send_turn(
        self,
        client: AsyncOpenAI,
        conversation: Conversation,
        model: str,
        mode: str,
        prompt: str,
    ) -> Turn | None:
        """Return the turn; None if its background response did not complete."""
        request: dict[str, Any] = {"model": model, "input": prompt}
        if conversation.id is not None:
            request["conversation"] = conversation.id
        elif conversation.acknowledged:
            request["previous_response_id"] = conversation.acknowledged[-1].response_id
        if mode == "streamed":
            return await read_stream(client, request, prompt)
        if mode == "whole":
            response = await client.responses.create(**request)
            return Turn(prompt, response.output_text, response.id)
        response = await client.responses.create(**request, background=True)
        return await self._await_background(client, response.id, prompt)

    async def _await_background(
        self, client: AsyncOpenAI, response_id: str, prompt: str
    ) -> Turn | None:
        """Poll a background response to its end; returns None if it did not complete."""
        give_up_at = time.monotonic() + _TIMEOUT_SECONDS
        status = "lost"
        while time.monotonic() < give_up_at:
            try:
                response = await client.responses.retrieve(response_id)
            except (OpenAIError, httpx2.HTTPError) as error:
                self.outcome.program_errors[name_failure(error)] += 1
                if getattr(error, "code", None) in LOST_CODES:
                    break
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            status = str(response.status)
            if status == "completed":
                self.outcome.restarted += "forwarder.attempt" in (response.metadata or {})
                return Turn(prompt, response.output_text, response_id)
            if status not in ("queued", "in_progress"):
                break
            await asyncio.sleep(_POLL_SECONDS)
        self.outcome.incomplete.append(f"{response_id}: {status}")
        return None

    # -- limits and keys --------------------------------------------------------------------------

    async def reach_limit(self, name: str, limited: Limited, at_once: bool) -> None:
        """Send 1.5 times as much as a limit allows, at a steady pace.

        Tokens count when an answer ends, so concurrent requests could exceed the limit together.
        Without ``at_once``, each request waits for the previous answer.
        """
        client = self.make_client(name, retries=0)
        count = limited.limit // limited.cost * 3 // 2
        pause = min(self._options.seconds, _LIMIT_SECONDS) / count
        started = time.monotonic()
        tasks = []
        for number in range(count):
            await asyncio.sleep(max(0.0, started + number * pause - time.monotonic()))
            if time.monotonic() > started + _LIMIT_SECONDS:
                break
            tasks.append(asyncio.create_task(self._spend(client, name, limited, started)))
            if not at_once:
                await tasks[-1]
        await asyncio.gather(*tasks)

    async def _spend(
        self, client: AsyncOpenAI, name: str, limited: Limited, started: float
    ) -> None:
        """Send a request of a client with a limit, and record its outcome."""
        try:
            await self._send_single(client, name)
        except (OpenAIError, httpx2.HTTPError) as error:
            if getattr(error, "code", None) == "rate_limit_exceeded":
                limited.refused += limited.cost
            else:
                limited.unknown += limited.cost
        else:
            if time.monotonic() < started + _WINDOW_SECONDS:
                limited.allowed += limited.cost
            else:  # perhaps in the next window
                limited.unknown += limited.cost

    async def _send_single(self, client: AsyncOpenAI, name: str) -> None:
        text = Prompt(name, SINGLE, 0, next(self._numbers)).text
        await client.chat.completions.create(
            model=MODELS[0], messages=[{"role": "user", "content": text}]
        )

    async def change_keys(self) -> None:
        """Repeatedly create a key, check it on all machines, revoke it, and check that."""
        for number in itertools.count():
            if time.monotonic() > self.end:
                return
            name = f"key-{number}"
            body, path = {"name": name}, f"/keys/{name}"
            if await self._change_key(self.outcome.made, name, "POST", "/keys", 200, body):
                await self._change_key(self.outcome.revoked, name, "DELETE", path, 401)
            await asyncio.sleep(1.0)

    async def _change_key(
        self, times: KeyTimes, name: str, method: str, path: str, expected: int, body: Any = None
    ) -> bool:
        """Change a key on one machine; record when all machines answer with ``expected``.

        Returns False if the machine was killed meanwhile.
        """
        started = time.monotonic()
        try:
            answer = await self.administer(self.pick_machine(), method, path, json=body)
        except httpx2.HTTPError as error:
            self.outcome.program_errors[name_failure(error)] += 1
            return False
        command_ended_at = time.monotonic()
        times.commands.append(command_ended_at - started)
        if "key" in answer:
            self._keys[name] = answer["key"]
        delay = 0.0
        while wrong_statuses := await self._find_wrong_answers(name, expected):
            delay = time.monotonic() - command_ended_at
            if delay > 10:
                self.outcome.faults.append(f"{name}: {wrong_statuses} instead of {expected}")
                break
        times.late.append(delay)
        return True

    async def _find_wrong_answers(self, name: str, expected: int) -> list[int]:
        """Send requests to each machine over new connections; return the unexpected statuses."""

        async def read_status(machine: Machine) -> int:
            text = Prompt(name, SINGLE, 0, next(self._numbers)).text
            body = {"model": MODELS[0], "messages": [{"role": "user", "content": text}]}
            headers = {"Authorization": f"Bearer {self._keys[name]}"}
            url = f"{machine.url}/v1/chat/completions"
            async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
                try:
                    response = await http.post(url, headers=headers, json=body)
                except httpx2.TransportError:
                    return expected  # it was killed
            return int(response.status_code)

        machines = [each for each in self._cluster.machines if each.is_up]
        statuses = await asyncio.gather(
            *(read_status(each) for each in machines for _ in range(2 * self._options.workers))
        )
        return [status for status in statuses if status != expected]

    # -- the kill ---------------------------------------------------------------------------------

    async def kill_machine(self) -> None:
        """Kill a machine at 40 % of the time, and start it again at 70 %."""
        machine = self._cluster.machines[0]
        seconds = self._options.seconds
        await asyncio.sleep(0.4 * seconds)
        self.outcome.killed_at = time.monotonic()
        await asyncio.to_thread(machine.kill)
        await asyncio.sleep(0.3 * seconds)
        started = time.monotonic()
        await asyncio.to_thread(machine.start)
        self.outcome.return_seconds = time.monotonic() - started

    # -- everything -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the load; returns when all answers have arrived."""
        seconds = min(self._options.seconds, _LIMIT_SECONDS)
        self.outcome.requests_limit = Limited(max(20, int(4 * seconds)))
        cost = SINGLE_USAGE.input + SINGLE_USAGE.output
        self.outcome.tokens_limit = Limited(max(20, int(2 * seconds)) * cost, cost)
        await self.make_key("rpm", requests_per_minute=self.outcome.requests_limit.limit)
        await self.make_key("tpm", tokens_per_minute=self.outcome.tokens_limit.limit)
        names = [f"client-{i}" for i in range(4)]
        for name in names:
            await self.make_key(name)
        self.end = time.monotonic() + self._options.seconds
        tasks = [
            self.keep_conversations(names[i % len(names)], has_object=i % 2 == 1)
            for i in range(self._options.conversations)
        ]
        tasks.append(self.reach_limit("rpm", self.outcome.requests_limit, at_once=True))
        tasks.append(self.reach_limit("tpm", self.outcome.tokens_limit, at_once=False))
        tasks.append(self.change_keys())
        if self._options.kill:
            tasks.append(self.kill_machine())
        await asyncio.gather(*tasks)

    async def read_again(self) -> None:
        """Read every response and every conversation again, and record missing data."""
        slots = asyncio.Semaphore(8)

        async def check(conversation: Conversation) -> None:
            client = self.make_client(conversation.client)
            async with slots:
                try:
                    await self._check_stored(client, conversation)
                except APIStatusError as error:
                    self.outcome.lost.append(f"{conversation.name}: {error}")

        await asyncio.gather(*map(check, self.conversations))

    async def _check_stored(self, client: AsyncOpenAI, conversation: Conversation) -> None:
        for turn in conversation.acknowledged:
            response = await client.responses.retrieve(turn.response_id)
            if response.output_text != turn.answer:
                self.outcome.lost.append(f"{conversation.name}: {turn.response_id} has changed")
        if conversation.id is not None:
            items = client.conversations.items.list(conversation.id, order="asc", limit=100)
            messages = [to_message(item.to_dict()) async for item in items]
            fault = conversation.find_fault(pair_turns(messages), len(conversation.acknowledged))
            if fault:
                self.outcome.lost.append(f"stored: {fault}")


async def read_stream(client: AsyncOpenAI, request: dict[str, Any], prompt: str) -> Turn:
    """Read a streamed answer. Raises CutAnswer if it does not complete."""
    pieces: list[str] = []
    turn = None
    async with await client.responses.create(**request, stream=True) as stream:
        async for event in stream:
            if event.type == "response.output_text.delta":
                pieces.append(event.delta)
            elif event.type == "response.completed":
                turn = Turn(prompt, event.response.output_text, event.response.id)
            elif event.type in ("response.failed", "error"):
                raise CutAnswer(event.type)
    if turn is None or "".join(pieces) != turn.answer:
        raise CutAnswer("stream")
    return turn


def to_message(item: dict[str, Any]) -> tuple[str, str]:
    return str(item.get("role")), text_of(item.get("content"))


def name_error(response: Any) -> str:
    """Name the error of an HTTP response: status, and code or server."""
    try:
        code = response.json()["error"]["code"]
    except (ValueError, LookupError, TypeError):
        code = f"of {response.headers.get('server', 'nobody')}"
    return f"{response.status_code} {code}"


def name_failure(error: Exception) -> str:
    """Name the error that a program gets after the SDK's retries."""
    if isinstance(error, APIStatusError):
        return name_error(error.response)
    if isinstance(error, CutAnswer):
        return f"cut {error}"
    if isinstance(error, httpx2.TransportError | APIConnectionError):
        return "cut connection"
    return type(error).__name__


def open_http(authority: Path, on_response: Callable[[Any], Awaitable[None]]) -> Any:
    """Return the HTTP client of the SDK; it trusts the authority and reports responses."""
    return DefaultAsyncHttpxClient(
        verify=ssl.create_default_context(cafile=str(authority)),
        event_hooks={"response": [on_response]},
        trust_env=False,
    )


# -- usage, the database ------------------------------------------------------------------------


async def compare_usage(load: Load, provider: CheckingProvider) -> list[UsageComparison]:
    """Compare the usage of each client with the tokens that the provider served."""
    await asyncio.sleep(USAGE_INTERVAL + 1)
    report = await load.administer(load.pick_machine(), "GET", "/usage?group=client")
    counted_tokens = {
        row["client"]: row["input_tokens"] + row["output_tokens"] for row in report["data"]
    }
    served_tokens: Counter[str] = Counter()
    uncounted_tokens: Counter[str] = Counter()
    killed_at = load.outcome.killed_at
    for served in provider.served:
        served_tokens[served.client] += served.tokens
        if (
            killed_at is not None
            and served.machine == "one"
            and killed_at - USAGE_INTERVAL - _LONGEST_ANSWER < served.time <= killed_at
        ):
            uncounted_tokens[served.client] += served.tokens
    return [
        UsageComparison(counted_tokens.get(name, 0), served_tokens[name], uncounted_tokens[name])
        for name in sorted(counted_tokens.keys() | served_tokens.keys())
    ]


def measure_database(url: str) -> int:
    """Return the size of the database in bytes, without its write-ahead log."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    assert row is not None
    return int(row[0])


def count_log_events(lines: list[str]) -> Counter[str]:
    """Count the lines of a log by their events; gunicorn's own lines have none."""
    records = [orjson.loads(line) for line in lines if line.startswith("{")]
    return Counter(str(record.get("event", record.get("message"))) for record in records)


def run(options: Options, folder: Path) -> list[str]:
    """Run everything and print the table; returns the broken promises."""
    with ExitStack() as stack:
        provider = CheckingProvider(seconds=0.8)
        stack.enter_context(provider)
        cluster = stack.enter_context(run_cluster(provider.url, options.workers, folder))
        result = asyncio.run(run_load(options, cluster, provider))
        print(format_report(result), flush=True)
        return list(list_faults(result))


async def run_load(options: Options, cluster: Cluster, provider: CheckingProvider) -> Result:
    """Load the cluster; then check stored data and usage."""
    before = measure_database(cluster.database_url)
    load = Load(cluster, provider, options)
    async with open_http(cluster.authority, load.count_response) as load.http:
        started = time.monotonic()
        await load.run()
        seconds = time.monotonic() - started
        requests, size = load.outcome.requests, measure_database(cluster.database_url) - before
        await load.read_again()
        load.outcome.requests = requests
        usage = await compare_usage(load, provider)
    load.outcome.lost += provider.faults
    lines = [line for machine in cluster.machines for line in machine.read_log_lines()]
    return Result(load.outcome, options, seconds, usage, size, count_log_events(lines))


def main() -> int:
    """Run the load; returns 0 if all promises were kept."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale_out",
        description=_ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=60, help="of the load (default: 60)")
    parser.add_argument(
        "--conversations", type=int, default=20, help="at the same time (default: 20)"
    )
    parser.add_argument("--workers", type=int, default=2, help="of each machine (default: 2)")
    parser.add_argument("--words", type=int, default=150, help="of an answer (default: 150)")
    parser.add_argument("--seed", type=int, default=1, help="of the mixture (default: 1)")
    parser.add_argument("--no-kill", action="store_true", help="do not kill a machine")
    args = parser.parse_args()
    options = Options(
        args.seconds, args.conversations, args.workers, args.words, args.seed,
        kill=not args.no_kill,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="scale-out-") as folder:
        faults = run(options, Path(folder))
    print("\n".join(["", "broken promises:", *faults]) if faults else "\nall promises were kept")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
