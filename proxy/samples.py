"""Hands over what endpoints have captured: as a file's bytes, or in pages for the supervisor."""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from detectors.sample import Sample
from proxy.admin.explanations import Busy
from proxy.endpoint import Endpoint

PAGE_BYTES: Final = 1 << 20
"""The channel between worker and supervisor is held up no longer than by one page."""

Ask = Callable[[int], Awaitable[dict[str, Any]]]
"""Asks a worker for the page from an offset on, as :meth:`Samples.page` answers."""


class Samples:
    """Makes samples in a thread, one at a time; holds one while it is handed over in pages."""

    def __init__(self) -> None:
        self._making = False
        self._whole = b""

    async def sample(self, endpoint: Endpoint) -> bytes:
        """What the endpoint has captured, as :class:`detectors.sample.Sample` writes it.

        Raises:
            LookupError: if nothing is captured, or nothing was yet.
            Busy: if another is being made.
        """
        if endpoint.capture is None:
            raise LookupError(
                f"endpoint {endpoint.name} captures nothing: give it the key `capture`"
            )
        take = endpoint.capture.taken()
        if take is None:
            raise LookupError(f"endpoint {endpoint.name} has captured nothing yet")
        if self._making:
            raise Busy("another sample is being made: try again in a moment")
        self._making = True
        name, shape = endpoint.name, row_shape(endpoint)
        try:
            return await asyncio.to_thread(lambda: take(name, shape).encode())
        finally:
            self._making = False

    async def page(self, endpoint: Endpoint, offset: int) -> dict[str, Any]:
        """A part of the sample that is made when its beginning is asked for: ``size`` of the whole,
        and ``data`` in base64.

        Raises:
            LookupError, Busy: as :meth:`sample`.
        """
        if offset == 0:
            self._whole = await self.sample(endpoint)
        size, data = len(self._whole), self._whole[offset : offset + PAGE_BYTES]
        if offset + len(data) >= size:
            self._whole = b""
        return {"size": size, "data": b64encode(data).decode()}


async def gathered(ask: Ask) -> bytes:
    """All pages of one worker's sample.

    Raises:
        LookupError: if the worker lost it on the way.
    """
    parts: list[bytes] = []
    held = 0
    while True:
        page = await ask(held)
        data = b64decode(page["data"])
        parts.append(data)
        held += len(data)
        if held >= page["size"]:
            return b"".join(parts)
        if not data:
            raise LookupError("a worker lost its sample while it was handed over")


def united(samples: Sequence[bytes]) -> bytes:
    """Several workers' samples as one.

    Raises:
        SampleError: if they do not go together.
    """
    if len(samples) == 1:
        return samples[0]
    return Sample.joined([Sample.decode(data) for data in samples]).encode()


def row_shape(endpoint: Endpoint) -> tuple[int, ...] | None:
    """The shape of a row on the wire, where one tensor makes it; None if it is not known."""
    contract = endpoint.contract
    scored = [spec for spec in contract.inputs if spec.numeric] if contract else []
    if len(scored) != 1 or contract is None:
        return None
    shape = scored[0].shape[1:] if contract.batched else scored[0].shape
    return shape if shape and min(shape) > 0 else None
