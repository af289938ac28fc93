"""A codec to which answers of the model are told as tensors, where they are not told as bytes."""

from __future__ import annotations

from typing import Any

from proxy.protocols.base import Codec, Headers, InferResponse


class Prompted:
    """Stands for a codec, which does everything else."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._said: InferResponse | None = None
        self._told = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def prompt(self, said: InferResponse) -> None:
        """What the next answer is read as."""
        self._said = said

    def decode_response(self, head: Headers, body: bytes) -> InferResponse:
        """As ``Codec``: what was told, if anything was."""
        said, self._said = self._said, None
        self._told = said is not None
        return self._codec.decode_response(head, body) if said is None else said

    def encode_response(self, response: InferResponse) -> tuple[bytes, bytes]:
        """As ``Codec``. Of what was told as tensors nothing is written: nobody reads it."""
        return (b"", b"") if self._told else self._codec.encode_response(response)
