"""The model's answer on its way back, where it is to be understood: read whole, shaped, sent."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from functools import partial
from typing import Final

from proxy.http import coding
from proxy.http.exchange import Exchange
from proxy.http.messages import Head
from proxy.http.response import Response
from proxy.protocols.base import Codec, InferResponse
from proxy.rules import UPSTREAM_INVALID, Refusal
from proxy.shaping import DECIMALS, shape

MAX_BYTES: Final = 10 * 2**20
"""Bytes of an answer that is understood, as sent and with its content coding undone."""

MAX_RATIO: Final = 100
"""How many times its size a compressed answer may grow."""

_INLINE_BYTES: Final = 32 * 1024  # decoded, shaped and encoded on the loop in 3 ms at most


async def shaped(
    exchange: Exchange,
    response: Response,
    codec: Codec,
    *,
    executor: Executor,
    extra: bytes = b"",
    decimals: int = DECIMALS,
    limit: int = MAX_BYTES,
    ratio: int = MAX_RATIO,
) -> int:
    """Sends the answer to an inference shaped. An error of the model server's goes on as it is.

    Nothing is sent before all is understood. An answer that cannot be is not lost, unless it is
    too large: ``exchange.relay`` would still pass it on whole, if the failure mode says so.

    Args:
        codec: the one that encoded the request.
        executor: decodes what would hold the loop too long.
        extra: further header lines, each ended by CRLF.
        decimals: as of :func:`proxy.shaping.shape`.
        limit: bytes of the answer, as sent and with its content coding undone.
        ratio: how many times its size a compressed answer may grow.

    Returns:
        The number of bytes of body sent.

    Raises:
        Refusal: UPSTREAM_INVALID for an answer that cannot be understood; UPSTREAM_TIMEOUT.
    """
    if response.bodiless or not 200 <= response.status < 300:
        return await exchange.relay(response, extra)
    body = await response.whole(limit)
    rewrite = partial(_rewritten, response, body, codec, decimals, limit=limit, ratio=ratio)
    if len(body) < _INLINE_BYTES and response.get(b"content-encoding") is None:
        lines, body = rewrite()
    else:
        lines, body = await asyncio.get_running_loop().run_in_executor(executor, rewrite)
    return exchange.replace(response, lines, body, extra)


def understood(
    response: Response, body: bytes, codec: Codec, *, limit: int = MAX_BYTES, ratio: int = MAX_RATIO
) -> InferResponse:
    """An answer as tensors.

    Args:
        body: all of it, as sent.
        limit, ratio: as of :func:`shaped`.

    Raises:
        Refusal: UPSTREAM_INVALID.
    """
    headers = dict(reversed(response.headers))  # the first of equal names, as Response.get has it
    try:
        plain = coding.decode(
            headers.pop(b"content-encoding", None), body, limit=limit, ratio=ratio
        )
    except Refusal as refusal:
        detail = f"{refusal.rule.message}: {refusal.detail}"
        raise Refusal(UPSTREAM_INVALID, detail) from None
    return codec.decode_response(Head("", "", headers, keep_alive=False), plain)


def _rewritten(
    response: Response, body: bytes, codec: Codec, decimals: int, *, limit: int, ratio: int
) -> tuple[bytes, bytes]:
    """The lines and the body of the shaped answer."""
    answer = understood(response, body, codec, limit=limit, ratio=ratio)
    return codec.encode_response(shape(answer, decimals=decimals))
