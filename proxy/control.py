"""The channel between the supervisor and a worker: questions down, answers up.

Each message is a length of four bytes and so many bytes. What the supervisor says is pickled: it
holds the settings, secrets and all, which stand in no file and no argument. What a worker says is
JSON, which gives it no hold on the supervisor: a worker reads what strangers send.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson

_LENGTH: Final = struct.Struct("!I")
_MOST: Final = 256 * 2**20
NOTE: Final = 0
"""The number of an answer that nobody asked for."""
_UNHEARD: Final = -1


class Refusal(Exception):  # noqa: N818 - an answer that says no, or why not
    """What the other end could not do.

    Attributes:
        kind: ``lookup``, ``unavailable``, ``busy``, ``refused``, ``failed`` or ``fault``.
        message: why, in words for the operator.
        status: the exit status, if the worker ended by it, else 0.
    """

    def __init__(self, kind: str, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status


@dataclass(frozen=True, slots=True)
class Question:
    """What the supervisor asks of a worker. ``number`` is its answer's."""

    number: int
    name: str
    value: Any


class Asking:
    """The supervisor's end.

    Args:
        noted: takes what the worker says unasked.
    """

    def __init__(self, noted: Callable[[Any], None]) -> None:
        self._noted = noted
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._number = NOTE
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._hearing: asyncio.Task[None]

    async def open(self, end: socket.socket) -> None:
        """Takes over this end of a socket pair."""
        self._reader, self._writer = await asyncio.open_connection(sock=end)
        self._hearing = asyncio.get_running_loop().create_task(self._hear())

    async def ask(self, name: str, value: Any = None, *, seconds: float | None = None) -> Any:
        """Asks, and waits for the answer.

        Raises:
            Refusal: if that is what the worker answers.
            TimeoutError: if there is none within so many seconds.
            ConnectionError: if the worker ends before.
        """
        if self._hearing.done():
            raise ConnectionResetError("the worker has ended")
        self._number += 1
        number = self._number
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            _write(self._writer, pickle.dumps(Question(number, name, value)))
            return await asyncio.wait_for(future, seconds)
        finally:
            del self._waiting[number]

    def tell(self, name: str) -> None:
        """Says something whose answer nobody waits for."""
        _write(self._writer, pickle.dumps(Question(_UNHEARD, name, None)))

    async def ended(self) -> None:
        """Returns once the worker has said its last."""
        await asyncio.wait([self._hearing])

    async def close(self) -> None:
        """Lets go; the worker sees that nobody listens."""
        self._hearing.cancel()
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def _hear(self) -> None:
        try:
            while True:
                self._take(orjson.loads(await _read(self._reader)))
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            pass  # it ended, or speaks no sense: nothing it says is heard any more
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionResetError("the worker has ended"))

    def _take(self, answer: dict[str, Any]) -> None:
        if answer["number"] == NOTE:
            self._noted(answer["value"])
            return
        future = self._waiting.get(answer["number"])
        if future is None or future.done():
            return  # nobody waits any more
        if "refusal" in answer:
            future.set_exception(Refusal(**answer["refusal"]))
        else:
            future.set_result(answer["value"])


class Answering:
    """The worker's end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    def first(self) -> Question:
        """Waits for the first question, before there is a loop.

        Raises:
            EOFError: if the supervisor is gone.
        """
        with self._end.makefile("rb", buffering=0) as file:
            (length,) = _LENGTH.unpack(_exactly(file.read, _LENGTH.size))
            return _question(_exactly(file.read, length))

    async def open(self) -> None:
        """Goes on in the loop."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._end)

    async def next(self) -> Question:
        """The next question.

        Raises:
            EOFError: if the supervisor is gone.
        """
        try:
            return _question(await _read(self._reader))
        except OSError as error:
            raise EOFError from error

    def answer(self, number: int, value: Any) -> None:
        """Answers a question, or notes something unasked."""
        self._say({"number": number, "value": value})

    def refuse(self, number: int, refusal: Refusal) -> None:
        """Answers that it cannot be done."""
        told = {"kind": refusal.kind, "message": refusal.message, "status": refusal.status}
        self._say({"number": number, "refusal": told})

    async def flush(self) -> None:
        """Returns once everything is said, or nobody listens."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    def _say(self, told: dict[str, Any]) -> None:
        if not self._writer.is_closing():  # the supervisor may be gone
            _write(self._writer, orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY))


def _question(message: bytes) -> Question:
    question = pickle.loads(message)  # noqa: S301 - our own supervisor's words, from a socket pair
    assert isinstance(question, Question)
    return question


def _write(writer: asyncio.StreamWriter, message: bytes) -> None:
    writer.write(_LENGTH.pack(len(message)) + message)


async def _read(reader: asyncio.StreamReader) -> bytes:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > _MOST:
        raise ValueError("a message is too long")
    return await reader.readexactly(length)


def _exactly(read: Callable[[int], bytes | None], size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = read(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data
