"""One connection of a client: requests in, answers out, in their order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from proxy.http import render
from proxy.http.application import Shed
from proxy.http.drive import Drive, Waiter
from proxy.http.exchange import Exchange
from proxy.http.messages import Head, Peer, Reply
from proxy.http.request_reader import NOTHING, SLICE, RequestReader
from proxy.rules import HEAD_DEADLINE, INTERNAL, MALFORMED, OVERLOADED, Refusal

if TYPE_CHECKING:
    from proxy.http.application import Application
    from proxy.http.downstream import Listener

_CLOSE: Final = b"connection: close\r\n"
_KEEP_ALIVE: Final = b"connection: keep-alive\r\n"  # said to HTTP/1.0 only: 1.1 presumes it

_DRAIN_IDLE_SECONDS: Final = 1.0
_LAST_RESORT: Final = Reply(503, b"", content_type=b"text/plain", close=True)


class _Refused:
    """A request that was refused while it was read: its answer waits for its turn."""

    __slots__ = ("application", "head", "received", "refusal")

    def __init__(
        self, application: Application, refusal: Refusal, head: Head | None, received: float
    ) -> None:
        self.application = application
        self.refusal = refusal
        self.head = head
        self.received = received


class _Shed:
    """A request that was shed as soon as its head was read."""

    __slots__ = ("body", "head", "keep_alive", "read", "reply")

    def __init__(self, head: Head, reply: Reply) -> None:
        self.head = head
        self.reply = reply
        self.body = b""  # if it came along: nobody reads it
        self.read = 0.0
        self.keep_alive = head.keep_alive


class ServerConnection(asyncio.Protocol):
    """One connection of a client.

    Attributes:
        peer: who the client is, as far as the connection tells.
        write_paused: whether the client takes its answer more slowly than it comes.
    """

    __slots__ = (
        "_advancing",
        "_closed",
        "_current",
        "_deaf",
        "_deferred",
        "_discarded",
        "_drained",
        "_drive",
        "_eof",
        "_held",
        "_limits",
        "_lingering",
        "_listener",
        "_paused",
        "_queue",
        "_reader",
        "_since",
        "_skip",
        "_stalled_since",
        "_transport",
        "_turn",
        "_used",
        "peer",
        "write_paused",
    )

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._limits = listener.limits
        self._reader = RequestReader(self, listener.limits, listener.guarded, listener.clock)
        self._transport: Any = None
        self.peer = Peer("")
        # Answers:
        self._queue: deque[Exchange | _Refused | _Shed] = deque()
        self._current: Exchange | None = None
        self._drive: Drive | None = None
        self._advancing = False
        self._deferred = False  # what is in the queue is handled in a later slice of the loop
        self._drained: Waiter | None = None
        self.write_paused = False
        self._stalled_since = 0.0
        # The connection:
        self._since = 0.0  # clock when it became idle, or began to linger
        self._used = False  # a request has been read
        self._closed = False
        self._eof = False  # the client will send no more
        self._deaf = False  # no further request is read
        self._lingering = False  # everything is answered; what arrives is thrown away
        self._discarded = 0  # bytes that were thrown away
        self._paused = False  # reading is paused
        self._held: memoryview | None = None  # what was received but not read yet
        self._skip = 0  # bytes of a shed request's body that are still to come
        self._turn = 0  # requests since the event loop last had its turn

    # What the event loop says:

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._since = self._reader.received = self._listener.clock()
        self.peer = self._listener.peer(transport)
        if not self._listener.admit(self):
            self._refuse(Refusal(OVERLOADED, retry_after=1))
            if self._listener.crowded:
                self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._discard(len(data))
            return
        listener, reader = self._listener, self._reader
        reader.now = now = listener.clock()
        turns = listener.turns
        if now > turns.next:
            turns.mark(now)
        self._turn = 0
        try:
            if len(data) <= SLICE and not self._skip:
                reader.feed(data)
                if type(reader.incoming) is _Shed:
                    self._skip_body()
            else:
                self._feed_slices(memoryview(data))
        except Exception as error:
            self._refuse(self._refusal_of(error))
        if self._queue:
            if len(self._queue) >= self._limits.pipeline_depth and not self._paused:
                self._hold(None)
            if self._current is None:
                if turns.overloaded and type(self._queue[0]) is Exchange:
                    self._defer()
                else:
                    self._advance()
        elif reader.expects_continue and self._current is None:
            self._allow_body()

    def eof_received(self) -> bool | None:
        self._eof = True
        if self.peer.tls:
            return None  # TLS has no half-closed connections: the transport closes itself
        if not self._deaf and self._reader.stage != NOTHING and self._held is None:
            self._refuse(Refusal(MALFORMED, "the request ended early"))
        # Closes now, unless something is still to be answered.
        return True if self._current is not None or self._queue or self._held else None

    def connection_lost(self, error: Exception | None) -> None:
        self._closed = self._deaf = True
        self._listener.forget(self)
        self._queue.clear()
        self._held = None
        self._reader.close()
        drive = self._drive
        if drive is not None:
            drive.cancel()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._stalled_since = self._listener.clock()

    def resume_writing(self) -> None:
        self.write_paused = False
        drained = self._drained
        if drained is not None:
            self._drained = None
            drained.wake()
        elif self._current is None and not self._advancing and not self._closed:
            self._advance()

    # Reading:

    def open_exchange(self, head: Head) -> tuple[Exchange, int]:
        """A head is complete."""
        listener = self._listener
        application = listener.application
        if listener.turns.overloaded and listener.turns.refuses:
            reply = application.shed(head)
            if reply is not None:
                return self._shed(head, reply)
        exchange = Exchange(self, application, head, self._reader.received)
        self._reader.incoming = exchange  # for a refusal by the next line
        try:
            intake = application.open(head, self.peer)
        except Shed as shed:
            return self._shed(head, shed.reply)
        exchange.context = intake.context
        return exchange, intake.body_limit

    def take(self, exchange: Exchange | _Shed) -> None:
        """A request is complete."""
        self._turn += 1
        self._used = True
        if not exchange.keep_alive:
            self._deaf = True
        self._queue.append(exchange)

    def _shed(self, head: Head, reply: Reply) -> tuple[Any, int]:
        """A request is answered before its body has come, and the body is read by nobody.

        The connection lives on where the body's end is known: for a client, making a new one costs
        more than the request did, and for us, too.
        """
        shed = _Shed(head, reply)
        length = head.headers.get(b"content-length", b"0")
        chunked = b"transfer-encoding" in head.headers
        if chunked or b"expect" in head.headers or int(length) > self._limits.linger_bytes:
            shed.keep_alive = False
        self._reader.incoming = shed
        return shed, self._limits.linger_bytes

    def _skip_body(self) -> None:
        """The rest of a shed request's body is not read."""
        reader = self._reader
        shed: Any = reader.incoming
        if not shed.keep_alive:
            self._discarded += 1
            reader.close()
        else:
            self._skip = reader.begin_anew()
            self._since = reader.now
        self.take(shed)

    def _feed_slices(self, data: memoryview) -> None:
        start, end = 0, len(data)
        depth = self._limits.pipeline_depth
        reader = self._reader
        while start < end:
            if self._deaf:
                self._discard(end - start)
                return
            if self._turn >= depth:
                self._hold(data[start:])
                return
            if self._skip:
                size = min(self._skip, end - start)
                self._skip -= size
            else:
                size = max(SLICE, reader.remaining)
                reader.feed(data[start : start + size])
                if type(reader.incoming) is _Shed:
                    self._skip_body()
            start += size

    def _hold(self, rest: memoryview | None) -> None:
        """Reads no more until what was read is answered."""
        self._held = rest
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _read_on(self) -> None:
        """Reads what was held, and then what comes."""
        if self._closed or self._deaf or self._current is not None or self._queue:
            return
        held, self._held = self._held, None
        self._reader.restart_clock(self._listener.clock())
        self._turn = 0
        if held is not None:
            try:
                self._feed_slices(held)
            except Exception as error:
                self._refuse(self._refusal_of(error))
        if self._held is None and self._paused:
            self._paused = False
            self._transport.resume_reading()
        if self._current is None:
            self._advance()

    def _allow_body(self) -> None:
        self._reader.expects_continue = False
        if not self._reader.body_begun:
            self.write(render.CONTINUE)

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._lingering and self._discarded > self._limits.linger_bytes:
            self.abort()

    def _refuse(self, refusal: Refusal) -> None:
        """Answers the request that is being read by a refusal, in its turn. No other follows."""
        if refusal.rule is not HEAD_DEADLINE:  # then nothing is unread, and little will come
            self._discarded += 1
        if self._deaf:
            return  # behind a request that was the last: never a request of its own
        reader = self._reader
        exchange: Any = reader.incoming
        reader.close()
        self._deaf = True
        if type(exchange) is _Shed:  # that is its answer, whatever is wrong with its body
            exchange.keep_alive = False
            self._queue.append(exchange)
        else:
            head = exchange.head if exchange is not None else None
            application = self._listener.application if exchange is None else exchange.application
            self._queue.append(_Refused(application, refusal, head, reader.received))
        if self._current is None and not self._advancing:
            self._advance()

    # Answering:

    @property
    def date(self) -> bytes:
        """The Date line."""
        return self._listener.date

    def connection_line(self, exchange: Exchange) -> bytes:
        """The Connection line of an answer. Decides whether the connection lives on."""
        if exchange.keep_alive:
            if self._listener.draining or (self._eof and not self._queue and not self._held):
                exchange.keep_alive = False
            else:
                return _KEEP_ALIVE if exchange.head.http10 else b""
        self._deaf = True
        return _CLOSE

    def write(self, data: bytes) -> None:
        """Sends some of an answer; to nobody, if the client has left."""
        if not self._closed and data:
            self._transport.write(data)

    async def drained(self) -> None:
        """Waits until the client has taken most of what was written."""
        if self.write_paused:
            self._drained = Waiter()
            await self._drained

    def abort(self) -> None:
        """Ends the connection at once, whatever is unsent."""
        self._deaf = True
        if not self._closed:
            self._transport.abort()

    def _defer(self) -> None:
        if not self._deferred:
            self._deferred = True
            self._listener.turns.defer(self)

    def go_on(self) -> None:
        """Handles what was deferred."""
        self._deferred = False
        if self._queue and self._current is None and not self._advancing:
            self._advance()

    def _advance(self) -> None:
        """Answers what waits, in order, as far as that is possible without waiting."""
        if self._closed or self.write_paused:
            return
        queue = self._queue
        self._advancing = True
        while queue and self._current is None and not self.write_paused:
            item = queue.popleft()
            if type(item) is Exchange:
                self._current = item
                self._drive = drive = Drive(item.application.handle(item), self._ended)
                drive.step()
            elif type(item) is _Shed:
                self._answer_shed(item)
            elif type(item) is _Refused:
                self.write(
                    render.reply(
                        self._reply(item.application, item.refusal, item.head, item.received),
                        date=self._listener.date,
                        connection=_CLOSE,
                        with_body=item.head is None or item.head.method != "HEAD",
                    )
                )
                self._finish()
        self._advancing = False
        if self._current is None and not queue and not self._deaf:
            self._rest()

    def _answer_shed(self, shed: _Shed) -> None:
        if self._listener.draining or (self._eof and not self._queue and not self._held):
            shed.keep_alive = False
        line = _CLOSE if not shed.keep_alive else _KEEP_ALIVE if shed.head.http10 else b""
        self.write(
            render.reply(
                shed.reply,
                date=self._listener.date,
                connection=line,
                with_body=shed.head.method != "HEAD",
            )
        )
        if not shed.keep_alive:
            self._discarded += self._skip
            self._finish()

    def _ended(self, error: BaseException | None) -> None:
        """The application is done with an exchange."""
        exchange = self._current
        self._current = self._drive = None
        if exchange is None or self._closed:
            return
        if error is None and exchange.status and self._transport.is_closing():
            return  # its answer was cut off, and the application knows
        if error is not None or not exchange.answered:
            self._settle(exchange, error or RuntimeError("the exchange ended without an answer"))
        if not exchange.keep_alive:
            self._finish()
        elif self._advancing:
            return  # goes on by itself
        elif self._queue:
            self._advance()
        else:
            self._rest()

    def _settle(self, exchange: Exchange, error: BaseException) -> None:
        """Answers an exchange that the application left open."""
        refusal = self._refusal_of(error)
        if exchange.answered:
            return
        if exchange.status:
            exchange.keep_alive = False
            self.abort()  # a part never looks like the whole
            return
        exchange.reply(self._reply(exchange.application, refusal, exchange.head, exchange.received))

    def _reply(
        self, application: Application, refusal: Refusal, head: Head | None, received: float
    ) -> Reply:
        try:
            return application.refuse(refusal, head, self.peer, received)
        except Exception as error:  # the client gets an answer, whatever fails
            self._report(error)
            return _LAST_RESORT

    def _rest(self) -> None:
        """Everything that was read is answered, and more may come."""
        if self._paused:
            # Other connections first.
            asyncio.get_running_loop().call_soon(self._read_on)
        elif self._eof:
            self._finish()
        else:
            self._since = self._listener.clock()
            if self._reader.expects_continue:
                self._allow_body()

    def _finish(self) -> None:
        """Ends the connection after its last answer, so that the client gets to read it."""
        self._deaf = True
        self._queue.clear()
        self._held = None
        transport = self._transport
        if self._closed or transport.is_closing():
            return
        self._lingering = True
        self._since = self._listener.clock()
        if self._eof or not self._discarded:
            transport.close()
            return
        # RFC 9112, 9.6: closing with unread bytes would reset the connection under the answer.
        if transport.can_write_eof():
            transport.write_eof()
        if self._paused:
            self._paused = False
            transport.resume_reading()

    def _refusal_of(self, error: BaseException) -> Refusal:
        """What the client is told of an exception: of a defect, nothing."""
        if isinstance(error, Refusal):
            return error
        self._report(error)
        return Refusal(INTERNAL, f"{type(error).__name__}: {error}")

    def _report(self, error: BaseException) -> None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "an exchange failed", "exception": error, "protocol": self}
        )

    # Time:

    def check(self, now: float) -> None:
        """Ends what has missed a deadline."""
        limits = self._limits
        if self.write_paused:
            if now - self._stalled_since > limits.send_seconds:
                self.abort()
        elif self._lingering:
            if now - self._since > limits.linger_seconds:
                self.abort()
        elif self._deaf or self._paused:
            return  # what was read is being answered
        elif self._skip and self._current is None:
            if now - self._since > limits.linger_seconds:
                self.abort()
        elif self._reader.stage != NOTHING:
            try:
                self._reader.check_deadline(now)
            except Refusal as refusal:
                self._refuse(refusal)
        elif self._current is None and not self._queue:
            idle = now - self._since
            if self._listener.draining:
                if idle > _DRAIN_IDLE_SECONDS:
                    self._finish()
            elif idle > (limits.idle_seconds if self._used else limits.head_seconds):
                self._finish()
