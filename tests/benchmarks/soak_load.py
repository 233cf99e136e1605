"""The clients of a soak: they ask at random, hang up at random, and compare every output with the one of a solo run."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.benchmarks.soak_cases import MALFORMED, Case

KINDS = {"answer": 40, "stream": 28, "hang up in a stream": 10, "hang up before an answer": 8, "malformed": 14}
_ROUTE = "/v1/completions"


@dataclass
class Tally:
    """What came of all requests.

    Attributes:
        ended: (kind, result) → number.
        violations: what must not happen, in words.
        killed_at: when a replica was killed, by `time.monotonic`.
        seconds: of every complete answer.
    """

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    killed_at: float | None = None
    seconds: list[float] = field(default_factory=list)

    def count(self, kind: str, result: str) -> None:
        """One more."""
        self.ended[kind, result] += 1

    def refuse(self, kind: str, what: str) -> None:
        """One that must not be."""
        self.ended[kind, "WRONG"] += 1
        self.violations.append(f"{kind}: {what}"[:400])

    def lost(self, kind: str, started: float, what: str) -> None:
        """A failure: allowed for a stream that was under way when the replica was killed."""
        killed = self.killed_at
        if kind == "stream" and killed is not None and started < killed and "503" in what:
            self.count(kind, "lost with the killed replica")
        else:
            self.refuse(kind, what)


class Clients:
    """Many clients at once.

    Args:
        client: of the server.
        cases: what they ask for.
        seed: of their choices.
    """

    def __init__(self, client: httpx.AsyncClient, cases: Sequence[Case], seed: int) -> None:
        self._client, self._cases, self._draw = client, cases, random.Random(seed)
        self.tally = Tally()

    async def run(self, number: int, until: float) -> None:
        """Keeps `number` requests open until a moment of `time.monotonic`."""

        async def one() -> None:
            while time.monotonic() < until:
                (kind,) = self._draw.choices(list(KINDS), list(KINDS.values()))
                try:
                    await self._act(kind)
                except httpx.HTTPError as error:
                    self.tally.refuse(kind, f"{type(error).__name__}: {error}")

        await asyncio.gather(*(one() for _ in range(number)))

    async def _act(self, kind: str) -> None:
        case = self._draw.choice(self._cases)
        if kind == "answer":
            await self._answer(kind, case)
        elif kind == "stream":
            await self._stream(kind, case)
        elif kind == "hang up in a stream":
            await self._leave_stream(kind, case)
        elif kind == "hang up before an answer":
            try:
                await asyncio.wait_for(self._answer(kind, case), self._draw.uniform(0.01, 0.3))
            except TimeoutError:
                self.tally.count(kind, "hung up")
        else:
            await self._malformed(kind)

    async def _answer(self, kind: str, case: Case) -> None:
        started = time.monotonic()
        answer = await self._client.post(_ROUTE, json=case.body)
        if answer.status_code != 200:
            self.tally.lost(kind, started, f"{answer.status_code} {answer.text}")
            return
        self.tally.seconds.append(time.monotonic() - started)
        self._compare(kind, case, answer.json()["choices"][0]["text"])

    async def _stream(self, kind: str, case: Case) -> None:
        started, text, is_done = time.monotonic(), "", False
        async with self._client.stream("POST", _ROUTE, json=case.body | {"stream": True}) as answer:
            if answer.status_code != 200:
                body = (await answer.aread()).decode(errors="replace")
                self.tally.lost(kind, started, f"{answer.status_code} {body}")
                return
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    is_done = True
                elif line.startswith("data: "):
                    chunk: dict[str, Any] = json.loads(line.removeprefix("data: "))
                    if error := chunk.get("error"):
                        status = "503" if error["code"] in ("unavailable", "engine_gone") else "500"
                        self.tally.lost(kind, started, f"{status} in the stream: {error}")
                        return
                    text += "".join(choice["text"] for choice in chunk["choices"])
        if is_done:
            self._compare(kind, case, text)
        else:
            self.tally.refuse(kind, "the stream ended without [DONE]")

    async def _leave_stream(self, kind: str, case: Case) -> None:
        wanted, seen = self._draw.randint(1, 4), 0
        async with self._client.stream("POST", _ROUTE, json=case.body | {"stream": True}) as answer:
            async for _ in answer.aiter_lines():
                seen += 1
                if seen == wanted:
                    break
        self.tally.count(kind, "hung up")

    async def _malformed(self, kind: str) -> None:
        content, status = self._draw.choice(MALFORMED)
        answer = await self._client.post(_ROUTE, content=content)
        if answer.status_code == status and "message" in answer.json()["error"]:
            self.tally.count(kind, "refused")
        else:
            self.tally.refuse(kind, f"{answer.status_code} instead of {status} for {content[:80]!r}: {answer.text}")

    def _compare(self, kind: str, case: Case, text: str) -> None:
        if text == case.text:
            self.tally.count(kind, "as alone")
        else:
            self.tally.refuse(kind, f"{json.dumps(case.body)} wrote {text!r}, alone {case.text!r}")
