"""Keeps one endpoint's contract that of its model server, and knows whether the server was seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from proxy.decision import ALLOWED, Permit, UpstreamRequest
from proxy.endpoint import Endpoint
from proxy.protocols.contract import Contract, ContractError
from proxy.rules import Refusal

_log = structlog.get_logger("bartizan.contract")

_FIRST_WAIT: Final = 0.1
"""Seconds before a server that did not answer is asked again; doubled each time."""
_METADATA_BYTES: Final = 2**20


class ContractWatch:
    """Asks the model server for its metadata at start and every so often.

    A contract that was learnt is kept while the server is away, and while what it says cannot be
    held: a model that does not fit the bundle is a fault to repair, not one to follow.

    Args:
        endpoint: whose codec is bound to the contract.
        learn: whether the contract is learnt; otherwise the server's answer only shows that it is
            there.
        refresh_seconds: between two questions to a server that answers.
        sleep: waits for seconds.

    Attributes:
        problem: why the endpoint is not ready, or "".
        asked: set once the server was asked, whatever it answered.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        learn: bool,
        refresh_seconds: float,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._endpoint = endpoint
        self._learn = learn
        self._refresh = refresh_seconds
        self._sleep = sleep
        route = endpoint.codec.route("GET", endpoint.match)
        self._model = route.model
        self._request = UpstreamRequest(b"GET", route.target, b"accept: application/json\r\n")
        self.asked = asyncio.Event()
        self.problem = "the model server has not answered yet"

    async def run(self) -> None:
        """Asks for ever."""
        wait = _FIRST_WAIT
        while True:
            await self.check()
            self.asked.set()
            if self.problem:
                await self._sleep(wait)
                wait = min(2 * wait, self._refresh)
            else:
                wait = _FIRST_WAIT
                await self._sleep(self._refresh)

    async def check(self) -> None:
        """Asks once."""
        before = self.problem
        try:
            response = await self._endpoint.pool.send(Permit(ALLOWED, self._request))
            body = await response.body(_METADATA_BYTES)
            if response.status != 200:
                self.problem = f"the model's metadata was answered with {response.status}"
            else:
                self._bind(body)
                self.problem = ""
        except Refusal as refusal:
            self.problem = f"{refusal.rule.message}: {refusal.detail}"
        except ContractError as error:
            self.problem = str(error)
        except Exception as error:
            _log.exception("fault", endpoint=self._endpoint.name)
            self.problem = repr(error)
        if self.problem != before:
            tell = _log.warning if self.problem else _log.info
            tell("upstream", endpoint=self._endpoint.name, problem=self.problem or None)

    def _bind(self, metadata: bytes) -> None:
        if not self._learn:
            return
        codec = self._endpoint.codec
        bundle = self._endpoint.bundle
        contract = Contract.from_metadata(
            metadata, model=self._model, width=bundle.features if bundle else None
        )
        if contract != codec.contract:
            self._endpoint.codec = codec.with_contract(contract)
            _log.info(
                "contract",
                endpoint=self._endpoint.name,
                inputs=[
                    f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in contract.inputs
                ],
                open=contract.open,
            )
