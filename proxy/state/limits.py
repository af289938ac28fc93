"""The row limits of one endpoint, as the pipeline asks: may this client send these rows now?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from proxy import rules
from proxy.rules import Refusal, Rule
from proxy.state.base import LeaseNeeded, Quota, State

_RULES: Final[tuple[tuple[Rule, Rule], ...]] = (
    (rules.CLIENT_RATE, rules.CLIENT_DAY),
    (rules.SUBNET_RATE, rules.SUBNET_DAY),
    (rules.ENDPOINT_RATE, rules.ENDPOINT_DAY),
)
_SCOPES: Final = ("client", "subnet", "endpoint")


class Client(Protocol):
    """What of an identity the limits count by: two pseudonyms."""

    @property
    def client(self) -> str:
        """The client."""

    @property
    def subnet(self) -> str:
        """Its subnet, or "" if it has none."""


class Limiter:
    """The limits of one endpoint: of each client, of each subnet, and over all.

    Args:
        state: where quotas are kept.
        endpoint: the endpoint's name.
        client, subnet, total: the quota of each client, of each subnet, and of the endpoint.
    """

    def __init__(
        self, state: State, endpoint: str, *, client: Quota, subnet: Quota, total: Quota
    ) -> None:
        quotas = (client, subnet, total)
        self._ledger = state.ledger(endpoint, quotas)
        self._unlimited = all(quota.is_unlimited for quota in quotas)
        self._most = tuple(quota.most() for quota in quotas)

    def take(self, identity: Client, rows: int, now: float) -> Refusal | None:
        """Takes rows from all three quotas, or from none.

        Args:
            identity: who sends them.
            rows: how many; a request of none counts as one.
            now: monotonic seconds.

        Returns:
            None if admitted. Otherwise the refusal of the quota that denies the longest, so that a
            retry after its ``retry_after`` passes if nobody else takes; ROWS_PER_REQUEST, without
            one, if no retry could ever pass.

        Raises:
            LeaseNeeded: never with memory; await ``refill`` and take again.
        """
        if self._unlimited:
            return None
        keys = (identity.client, identity.subnet, "*")
        denial = self._ledger.take(keys, rows or 1, now)
        if denial is None:
            return None
        if denial.retry_after is None:
            return Refusal(
                rules.ROWS_PER_REQUEST,
                f"{rows} rows; at most {self._most[denial.scope]:.0f} can pass at once",
            )
        return Refusal(
            _RULES[denial.scope][denial.daily],
            f"{rows} rows over the {_SCOPES[denial.scope]}'s "
            f"{'day' if denial.daily else 'rate'} quota",
            retry_after=denial.retry_after,
        )

    def charge(self, identity: Client, rows: int, now: float) -> None:
        """Takes rows that were spent already from all three quotas.

        Who has fewer is in debt, and refused until time has paid it.

        Args:
            identity, now: as of ``take``.
            rows: how many; none are charged if it is not above 0.
        """
        if rows > 0 and not self._unlimited:
            self._ledger.charge((identity.client, identity.subnet, "*"), rows, now)

    async def refill(self, needed: LeaseNeeded) -> None:
        """Fetches the leased quota that a take lacked."""
        await self._ledger.refill(needed)

    def known(self) -> Sequence[int]:
        """How many clients, subnets and endpoints are kept apart now."""
        return self._ledger.known()
