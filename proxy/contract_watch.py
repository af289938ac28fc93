"""Keeps one endpoint's contract that of its model server, and knows whether the server was seen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from proxy.decision import ALLOWED, Permit, UpstreamRequest
from proxy.endpoint import Binding, Endpoint
from proxy.protocols.contract import Contract, ContractError
from proxy.rules import UPSTREAM_QUEUE, Refusal

_log = structlog.get_logger("bartizan.contract")

_FIRST_WAIT: Final = 0.1
"""Seconds before a server that did not answer is asked again; doubled each time."""
_METADATA_BYTES: Final = 2**20
_NOT_SPOKEN: Final = frozenset({400, 404, 405})
"""What servers say to a path of a protocol that they do not speak."""


class ContractWatch:
    """Asks the model server for its metadata at start and every so often.

    A contract that was learnt is kept while the server is away, and while what it says cannot be
    held: a model that does not fit the bundle is a fault to repair, not one to follow.

    An endpoint's first server is asked, by the endpoint's own protocol; where several are spoken
    with it, by each in turn until one is answered, and by those up to that one from then on: a
    server may not know the path of a model that it still loads. What is learnt holds for every
    protocol of the endpoint; an answer that declares nothing does not take back what an earlier
    protocol declared.

    Args:
        endpoint: whose codecs are bound to the contract.
        learn: whether the contract is learnt; otherwise the server's answer only shows that it is
            there.
        refresh_seconds: between two questions to a server that answers.
        sleep: waits for seconds.
        learnt: told which protocol's answer declared the contract, by its match, and the answer.
        before: the endpoint's watch in the generation before: what it found holds until the server
            was asked anew, unless there is another contract to learn first.

    Attributes:
        problem: why the endpoint is not ready, or "".
        seen: whether it has been ready once.
        asked: set once the server was asked, whatever it answered.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        learn: bool,
        refresh_seconds: float,
        sleep: Callable[[float], Awaitable[None]],
        learnt: Callable[[str, bytes], None] | None = None,
        before: ContractWatch | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._learn = learn
        self._refresh = refresh_seconds
        self._sleep = sleep
        self._learnt = learnt
        first = endpoint.bindings[0].pool
        self._asking = [
            binding
            for binding in endpoint.bindings
            if binding.pool is first and binding.codec.probe is not None
        ]
        self.asked = asyncio.Event()
        self.problem = "the model server has not answered yet"
        self.seen: bool = before is not None and before.seen
        if before is not None and endpoint.contract is not None:
            self.problem = before.problem

    async def run(self) -> None:
        """Asks for ever, if there is something to ask."""
        wait = _FIRST_WAIT
        while True:
            await self.check()
            self.asked.set()
            if not self._asking:
                return
            if self.problem:
                await self._sleep(wait)
                wait = min(2 * wait, self._refresh)
            else:
                wait = _FIRST_WAIT
                await self._sleep(self._refresh)

    async def check(self) -> None:
        """Asks once."""
        before, bundle = self.problem, self._endpoint.bundle
        try:
            if self._asking:
                self.problem = await self._ask()
            else:
                if self._learn:
                    self._bind(Contract().with_width(bundle.features if bundle else None))
                self.problem = ""
        except Refusal as refusal:
            # A server that has too much to do serves: taking it out would not help it.
            if self.problem or refusal.rule is not UPSTREAM_QUEUE:
                self.problem = f"{refusal.rule.message}: {refusal.detail}"
        except ContractError as error:
            self.problem = str(error)
        except Exception as error:
            _log.exception("fault", endpoint=self._endpoint.name)
            self.problem = repr(error)
        self.seen = self.seen or not self.problem
        if self.problem != before:
            tell = _log.warning if self.problem else _log.info
            tell("upstream", endpoint=self._endpoint.name, problem=self.problem or None)

    async def _ask(self) -> str:
        """Asks by each protocol until one is answered; what is wrong, or ""."""
        bundle, problem = self._endpoint.bundle, ""
        for place, binding in enumerate(self._asking):
            status, body = await self._answer(binding)
            if status == 200:
                if self._learn:
                    learnt = binding.codec.learn(body, bundle.features if bundle else None)
                    held = self._endpoint.contract
                    if not (place and learnt.open and held is not None and not held.open):
                        if self._learnt is not None and learnt != held:
                            self._learnt(binding.match, body)
                        self._bind(learnt)
                self._asking = self._asking[: place + 1]
                return ""
            problem = problem or f"the model's metadata was answered with {status}"
            if status not in _NOT_SPOKEN:
                break
        return problem

    async def _answer(self, binding: Binding) -> tuple[int, bytes]:
        route = binding.codec.probe
        assert route is not None  # there is something to ask
        request = UpstreamRequest(
            route.method.encode(), route.target, b"accept: application/json\r\n"
        )
        response = await binding.pool.send(Permit(ALLOWED, request))
        return response.status, await response.body(_METADATA_BYTES)

    def _bind(self, contract: Contract) -> None:
        endpoint = self._endpoint
        if contract == endpoint.contract:
            return
        for binding in endpoint.bindings:
            binding.codec = binding.codec.with_contract(contract)
        _log.info(
            "contract",
            endpoint=endpoint.name,
            inputs=[f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in contract.inputs],
            open=contract.open,
        )
