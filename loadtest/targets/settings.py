"""The endpoint that is loaded and attacked: where it is, what it speaks, who its clients are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import WithJsonSchema

from loadtest.targets.clients import Clients
from proxy.settings.answers import Answer
from proxy.settings.client_tls import UpstreamTls
from proxy.settings.contract import Contract, LearntContract
from proxy.settings.fields import FilePath, Matching, Origin, PathOrRoot, Seconds, origin_of
from proxy.settings.protocols import V2, OpenAI, Protocol
from proxy.settings.section import Faults, Section

_SCHEMES: Final = {"http": "http", "https": "https", "grpc": "http", "grpcs": "https"}
_WORDS: Final = "must be http(s)://host:port[/path], grpc(s)://host:port[/MODEL] or unix:/path"
_STATED: Final = ("upstream_path", "contract", "answer", "match")


@dataclass(frozen=True, slots=True)
class Url:
    """Where a model is asked.

    Attributes:
        text: as it was written.
        origin: the server.
        path: the model's path; over gRPC ``/MODEL[/VERSION]``; "": it is stated elsewhere.
        rpc: whether it is asked by gRPC.
    """

    text: str
    origin: Origin
    path: str = ""
    rpc: bool = False


def url_of(value: object, info: ValidationInfo | None = None) -> Url:
    """Reads a URL.

    Raises:
        ValueError: if it is none of a model.
    """
    if isinstance(value, Url):
        return value
    if not isinstance(value, str):
        raise ValueError(_WORDS)  # noqa: TRY004 - pydantic collects ValueErrors only
    given: Any = info if info is not None else _NoContext()
    if value.startswith("unix:"):
        return Url(value, origin_of(value, given))
    parts = urlsplit(value)
    if parts.scheme not in _SCHEMES or not parts.netloc or "?" in value or "#" in value:
        raise ValueError(_WORDS)
    rpc = parts.scheme.startswith("grpc")
    if rpc and parts.port is None:
        raise ValueError(_WORDS)
    origin = origin_of(f"{_SCHEMES[parts.scheme]}://{parts.netloc}", given)
    return Url(value, origin, parts.path.rstrip("/"), rpc)


class _NoContext:
    """Stands for pydantic's where a URL comes from the command line."""

    context = None


ModelUrl = Annotated[
    Url,
    PlainValidator(url_of),
    PlainSerializer(lambda url: url.text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": r"^((https?|grpcs?)://[^?#]+|unix:.+)$"}),
]
"""Where a model is asked: ``http(s)://host:port/path``, ``grpc(s)://host:port/MODEL``, or
``unix:/path``, its path then in ``match``."""

Host = Annotated[
    str,
    Matching("[A-Za-z0-9._:-]{1,253}", "a host's name or address, without scheme and port"),
    AfterValidator(str.lower),
]


class Target(Section):
    """One model, alone and behind the firewall: taken from the firewall's configuration, or stated
    in the same words."""

    configuration: FilePath | None = None
    """The firewall's configuration: protocol, contract, listener and upstream are taken from it."""
    endpoint: str | None = None
    """The endpoint of the configuration; none: its only one."""
    wire: Literal["http", "grpc"] | None = None
    """How an endpoint of the configuration that speaks both is asked; none: over HTTP if it can
    be."""
    firewall: ModelUrl | None = None
    """The model behind the firewall; none: the listener of the configuration."""
    direct: ModelUrl | None = None
    """The model server alone, by which success is judged; none: the first upstream of the
    configuration."""
    protocol: Protocol = V2()
    """What is spoken, as in an endpoint's settings. Of a configuration whose endpoint is ``auto``,
    it chooses one."""
    match: PathOrRoot | None = None
    """The model's path at the firewall, where its URL has none."""
    upstream_path: PathOrRoot | None = None
    """The model's path at the model server, where its URL has none; none: the same."""
    contract: Contract = LearntContract()
    """What the model takes: ``learn`` asks the model server; or stated, as in an endpoint's
    settings."""
    answer: Answer = Answer()
    """How its answers are read, as in an endpoint's settings."""
    example: FilePath | None = None
    """A body of a request, which shows the form: rows are put in the place of its own. None: the
    protocol's plainest form."""
    example_type: str | None = None
    """The example's content type; none: told by the end of its name."""
    binary: bool = False
    """Whether v2 over HTTP carries its tensors as bytes."""
    clients: Clients = Clients()
    """As whom it is asked."""
    firewall_tls: UpstreamTls | None = None
    """TLS to an ``https://`` or ``grpcs://`` firewall, where the system's certificates do not
    suffice."""
    direct_tls: UpstreamTls | None = None
    """The same of the model server."""
    timeout_seconds: Seconds = 10.0
    """How long connecting, and each reply, may take."""
    authorised_hosts: tuple[Host, ...] = ()
    """Hosts beside this machine that may be loaded and attacked: the operator says that they are
    theirs to attack. Names or addresses, as in the URLs."""

    @model_validator(mode="after")
    def _check(self) -> Target:
        faults = Faults()
        if self.configuration is None:
            self._check_stated(faults)
        else:
            for key in _STATED:
                if key in self.model_fields_set:
                    faults.add("the configuration says it: it would do nothing", key)
        if isinstance(self.protocol, OpenAI):
            faults.add("texts hold no rows: nothing here can attack it", "protocol")
        if self.example_type is not None and self.example is None:
            faults.add("without an example it would do nothing", "example_type")
        faults.report()
        return self

    def _check_stated(self, faults: Faults) -> None:
        if self.firewall is None and self.direct is None:
            faults.add("say configuration, or firewall, or direct")
        for key in ("endpoint", "wire"):
            if key in self.model_fields_set:
                faults.add("without a configuration it would do nothing", key)
        for key, path in (("firewall", self.match), ("direct", self.upstream_path or self.match)):
            url: Url | None = getattr(self, key)
            if url is not None and not url.path and path is None:
                faults.add("say the model's path, in the URL or in match", key)
