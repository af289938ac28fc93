"""An endpoint opened to be loaded and attacked: oracles of its sides, and requests for loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from http.client import HTTPException
from typing import TYPE_CHECKING, Protocol, Self

from loadtest.evidence.results import Side
from loadtest.targets.answers import Reader
from loadtest.targets.base import Oracle, Rows
from loadtest.targets.clients import Identity, identities
from loadtest.targets.forms import FormError, call_route, first_request
from loadtest.targets.http_oracle import Asking, HttpOracle, get
from loadtest.targets.places import Place, Places, places
from loadtest.targets.settings import Target
from proxy.protocols.base import Codec, InferRequest, Route
from proxy.protocols.contract import Contract, ContractError

if TYPE_CHECKING:
    from loadtest.targets.grpc_oracle import Call

__all__ = ["Endpoint", "FormError", "OpenOracle", "Unreachable"]


class Unreachable(OSError):  # noqa: N818 - a condition, with its reason as the message
    """Neither side of the target answers as it should: the message says which and how."""


class OpenOracle(Oracle, Protocol):
    """An oracle with connections, which end with its context."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class Endpoint:
    """A target whose contract is known and for which requests can be made. Opens no connection but
    to learn the contract; oracles open their own.

    Use :meth:`open`.

    Attributes:
        sides: those that there are, ``direct`` before ``firewall``.
        features: d, of a row.
        classes: of a classifier, as far as is known; 0 otherwise.
        clients: the names of the clients as whom it is asked.
        about: what it is, for reports.
        contract: what the model takes.
        audit: the firewall's audit log, where its configuration says so.
    """

    def __init__(
        self, target: Target, found: Places, contract: Contract, features: int | None, classes: int
    ) -> None:
        self._target = target
        self._places = found
        self._identities: Mapping[str, Identity] = identities(target.clients)
        self.contract = contract
        self.sides: tuple[Side, ...] = tuple(found.sides)
        self.clients: Sequence[str] = tuple(self._identities)
        self.about = found.about
        self.audit = found.audit
        self.classes = Reader(found.answer, classes or _declared(contract, found)).classes
        self._ways: dict[Side, tuple[Codec, Route, InferRequest]] = {}
        for side, place in found.sides.items():
            codec = place.codec(contract)
            route = call_route(codec, place.path, rpc=place.rpc)
            first = first_request(target, codec, route, place.protocol, features, rpc=place.rpc)
            self._ways[side] = codec, route, first
        self.features = int(next(iter(self._ways.values()))[2].rows.shape[1])

    @classmethod
    def open(
        cls, target: Target, *, features: int | None = None, classes: int | None = None
    ) -> Self:
        """Opens a target: learns its contract if it is not stated.

        Args:
            features: d, of the rows that are to be asked, where they are known.
            classes: how many the labels have, where they are known.

        Raises:
            Unreachable: if the contract is to be learnt, and nobody tells it.
            SettingsError: if the firewall's configuration, or a file of keys, cannot be used.
            NotAuthorised: if it is on another machine that is not listed.
            ValueError: if something does not go together: FormError and ContractError among them.
            OSError: if the example cannot be read.
        """
        found = places(target)
        contract = found.contract
        if contract is None:
            contract = _learnt(found, features, target.timeout_seconds)
        return cls(target, found, contract, features, classes or 0)

    def place(self, side: Side) -> Place:
        """Where a side is.

        Raises:
            KeyError: if there is no such side.
        """
        return self._places.sides[side]

    def source(self, client: str) -> str:
        """The loopback address that a client connects from, or ""."""
        return self._identities[client].source

    def oracle(self, side: Side) -> OpenOracle:
        """One side, to be asked. A context manager: its connections end with it.

        Raises:
            KeyError: if there is no such side.
        """
        place = self._places.sides[side]
        codec, route, first = self._ways[side]
        reader = Reader(self._places.answer, self.classes)
        seconds = self._target.timeout_seconds
        if place.rpc:
            # Imported where it is asked for: gRPC is an extra.
            from loadtest.targets.grpc_oracle import GrpcAsking, GrpcOracle  # noqa: PLC0415

            by_rpc = GrpcAsking(place, codec, first, self._identities)
            return GrpcOracle(side, by_rpc, reader, self.features, seconds=seconds)
        asking = Asking(place, codec, route, first, self._identities)
        return HttpOracle(side, asking, reader, self.features, seconds=seconds)

    def requests(
        self,
        side: Side,
        rows: Rows,
        clients: Sequence[str] | None = None,
        rows_per_request: int = 1,
    ) -> Sequence[bytes] | Sequence[Call]:
        """Complete requests for a load: HTTP messages, or the metadata and messages of gRPC calls.

        Args:
            rows: (n, d), taken in their order; what is left over makes a smaller last request.
            clients: who sends them, in turn; None: all there are.
            rows_per_request: how many rows each holds.

        Raises:
            KeyError: if there is no such side or client.
            ValueError: if the endpoint does not take such rows, or so many at once.
        """
        place = self._places.sides[side]
        codec, route, first = self._ways[side]
        names = tuple(clients) if clients is not None else self.clients
        if not names:
            raise ValueError("no client: nobody sends the requests")
        most = codec.batch(first)
        if not 1 <= rows_per_request <= most:
            raise ValueError(f"a request of this form holds 1 to {most} rows")
        parts = [rows[at : at + rows_per_request] for at in range(0, len(rows), rows_per_request)]
        turns = [(part, names[number % len(names)]) for number, part in enumerate(parts)]
        if place.rpc:
            from loadtest.targets.grpc_oracle import GrpcAsking  # noqa: PLC0415 - as above

            by_rpc = GrpcAsking(place, codec, first, self._identities)
            return [by_rpc.call(part, name) for part, name in turns]
        asking = Asking(place, codec, route, first, self._identities)
        return [asking.request(part, name) for part, name in turns]


def _declared(contract: Contract, found: Places) -> int:
    """How many classes the contract's outputs tell of; 0: they do not, or disagree."""
    if found.answer.kind == "values":
        return 0
    widths = {
        spec.shape[1]
        for spec in contract.outputs
        if spec.datatype in {"FP32", "FP64", "FP16"}
        and len(spec.shape) == 2
        and spec.shape[1] > 1
        and found.answer.output in {None, spec.name}
    }
    return widths.pop() if len(widths) == 1 else 0


def _learnt(found: Places, features: int | None, seconds: float) -> Contract:
    """The contract that the first side to answer declares.

    Raises:
        Unreachable: if none does.
    """
    problems = []
    for side, place in found.sides.items():
        codec = place.codec(None)
        route = codec.probe
        if route is None:
            return Contract().with_width(features)
        try:
            if place.rpc:
                from loadtest.targets.grpc_oracle import metadata_of  # noqa: PLC0415 - an extra

                status, body = metadata_of(place, route, seconds)
            else:
                # What a client asks for: on the model's server its own path, on ours the same.
                status, body = get(place.address, route.target.decode(), seconds)
            if status == 200:
                return codec.learn(body, None)
            problems.append(f"{side}: the model's metadata was answered with {status}")
        except ContractError as error:
            problems.append(f"{side}: {error}")
        except (OSError, HTTPException, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            problems.append(f"{side}, {place.address}: {why}")
    raise Unreachable("; ".join(problems))


def reachable(endpoint: Endpoint, side: Side, seconds: float = 5.0) -> bool:
    """Whether something listens at a side."""
    from loadtest.targets.http_oracle import connect  # noqa: PLC0415 - as small as it is

    at = endpoint.place(side).address
    where: tuple[str, int] | str = at.path or (at.host, at.port)
    try:
        with closing(connect(where, None, "", "", seconds)):
            return True
    except OSError:
        return False
