"""A proxy that does to requests what networks and busy servers do; signatures stay valid, as Host is kept.

    with Chaos(server.port) as chaos:
        chaos.add("status", n=2, method="PUT", path="/bucket/")  # the next two answered 503 SlowDown
        chaos.add("latency", seconds=0.2)                        # every request, until chaos.clear()
        chaos.add("lost_reply", n=1, method="PUT")               # done, but the client sees a reset

By hand: ``python tests/chaos.py --upstream 9300 --rule status,p=0.05 --rule latency,seconds=0.05``.
"""

import argparse
import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
import urllib.parse
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_BLOCK = 1 << 16
_REFUSAL = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>chaos</Message></Error>"
ACTIONS = {
    "latency": "wait `seconds` before the request is passed on",
    "status": "answer `status` (503) with S3's code `code` (SlowDown) and pass nothing on",
    "refuse": "reset the connection at once",
    "blackhole": "say nothing for `seconds`, then reset",
    "reset": "reset after `after` bytes of the request were passed on",
    "truncate": "reset after `after` bytes of the answer were passed on",
    "lost_reply": "pass the request on, wait until it is answered, and reset",
}


class Seen(NamedTuple):
    """A request that went through."""

    method: str
    path: str
    actions: tuple[str, ...]


@dataclass
class Rule:
    """What is done to requests that match."""

    action: str
    n: int | None = None
    """To how many; None is all."""
    skip: int = 0
    """How many to let pass first."""
    p: float = 1.0
    """With which probability."""
    method: str = ".*"
    path: str = ""
    """Part of the path and query, unquoted."""
    seconds: float = 0.05
    after: int = 0
    status: int = 503
    code: str = "SlowDown"

    def matches(self, method: str, path: str) -> bool:
        """Whether the rule is for this request, and not used up."""
        there = self.path in urllib.parse.unquote(path)
        return self.n != 0 and there and re.fullmatch(self.method, method) is not None


@dataclass
class _Stream:
    """One direction of a connection, cut off after some bytes if a rule says so."""

    cut_after: int | None
    passed: int = 0
    cut: bool = False

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(_BLOCK):
            self.cut = self.cut_after is not None and self.passed + len(block) >= self.cut_after
            block = block[: (self.cut_after or 0) - self.passed] if self.cut else block
            writer.write(block)
            await writer.drain()
            self.passed += len(block)
            if self.cut:
                return


@dataclass
class Chaos:
    """A proxy before a server on loopback, in a thread of its own; one request a connection."""

    upstream: int
    listen: int = 0
    seed: int = 0
    seen: list[Seen] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)

    def add(self, action: str, **conditions: Any) -> Rule:
        """Begin to do something to requests that match; see ``ACTIONS`` and ``Rule``."""
        if action not in ACTIONS:
            raise ValueError(f"There is no action {action}. There are {', '.join(ACTIONS)}.")
        rule = Rule(action, **conditions)
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Do nothing more to anyone, and forget who was seen."""
        self.rules.clear()
        self.seen.clear()

    @property
    def url(self) -> str:
        """Where clients find the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Chaos":
        self._random = random.Random(self.seed)
        self._serving: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        serving = asyncio.start_server(self._serve, "127.0.0.1", self.listen, limit=1 << 20)
        self._server = self._there(serving)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._there(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _there(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _close(self) -> None:
        self._server.close()
        # A connection that was just let in is served from the loop's next round on, and an aborted one
        # is closed in it: the loop must live to see both.
        for _ in range(2):
            await asyncio.sleep(0.03)
            while self._serving:
                await _ended(*self._serving)
        await asyncio.sleep(0.03)

    def _pick(self, method: str, path: str) -> dict[str, Rule]:
        """The first rule of each action for this request."""
        picked: dict[str, Rule] = {}
        for rule in self.rules:
            if rule.action in picked or not rule.matches(method, path):
                continue
            if rule.skip > 0:
                rule.skip -= 1
            elif self._random.random() < rule.p:
                picked[rule.action] = rule
                rule.n = None if rule.n is None else rule.n - 1
        self.seen.append(Seen(method, path, tuple(picked)))
        return picked

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The loop itself forgets a task whose connection is gone.
        serving = asyncio.current_task()
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, _ = head.decode("latin1").split(" ", 2)
            rules = self._pick(method, path)
            if "latency" in rules:
                await asyncio.sleep(rules["latency"].seconds)
            if "status" in rules:
                await _refuse(rules["status"], method, head, reader, writer)
            elif "refuse" in rules:
                _reset(writer)
            elif "blackhole" in rules:
                await asyncio.sleep(rules["blackhole"].seconds)
                _reset(writer)
            else:
                await self._pass_on(rules, head, reader, writer)
        writer.close()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await writer.wait_closed()

    async def _pass_on(
        self,
        rules: Mapping[str, Rule],
        head: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        answers, server = await asyncio.open_connection("127.0.0.1", self.upstream)
        if _waits(head):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # Neither of the two is a signed header.
        head = re.sub(rb"(?im)^(connection|expect):.*\r\n", b"", head)
        server.write(head[:-2] + b"Connection: close\r\n\r\n")
        there = _Stream(rules["reset"].after if "reset" in rules else None)
        back = _Stream(rules["truncate"].after if "truncate" in rules else None)
        asking = asyncio.create_task(there.run(reader, server))
        answering = asyncio.create_task(back.run(answers, writer))
        try:
            if "lost_reply" in rules:
                answering.cancel()
                await answers.readuntil(b"\r\n\r\n")
                _reset(writer)
                return
            await asyncio.wait({asking, answering}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done() and asking.exception():  # the server answered before it had heard all
                await asyncio.wait({answering}, timeout=5)
            if there.cut or back.cut:
                _reset(writer)
        finally:
            # Before anything is waited for: whoever is cancelled while he waits comes no further.
            _reset(server)
            await _ended(asking, answering)


async def _refuse(
    rule: Rule, method: str, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    # The body is taken first, so that the client reads the answer and not a reset.
    length = re.search(rb"(?im)^content-length:\s*(\d+)", head)
    if length and not _waits(head):
        await reader.readexactly(int(length[1]))
    body = b"" if method == "HEAD" else _REFUSAL.format(code=rule.code).encode()
    told = f"HTTP/1.1 {rule.status} Chaos\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(told.encode() + body)
    await writer.drain()


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _waits(head: bytes) -> bool:
    """Whether the client sends no body before it is told to go on."""
    return b"100-continue" in head.lower()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: what is on its way is lost."""
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
    writer.transport.abort()


def main() -> None:
    """Run a proxy until Ctrl-C."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--upstream", type=int, required=True)
    parser.add_argument("--listen", type=int, default=0)
    parser.add_argument("--rule", action="append", default=[])
    options = parser.parse_args()
    with Chaos(options.upstream, options.listen) as chaos:
        kinds = {"n": int, "skip": int, "after": int, "status": int, "p": float, "seconds": float}
        for rule in options.rule:
            action, *given = rule.split(",")
            pairs = (item.split("=", 1) for item in given)
            chaos.add(action, **{name: kinds.get(name, str)(value) for name, value in pairs})
        print(chaos.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
