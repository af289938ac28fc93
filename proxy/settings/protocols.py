"""The wire protocols that an endpoint may speak, each with what only it needs to be told."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    Discriminator,
    Field,
    JsonValue,
    PlainValidator,
    Tag,
    model_validator,
)

from proxy.settings.fields import Matching
from proxy.settings.section import Faults, Section

ModelName = Annotated[
    str, Matching("(?![.]{1,2}$)[A-Za-z0-9._~-]{1,128}", "a model's name of plain characters")
]

Word = Annotated[str, Matching("[A-Za-z0-9._~-]{1,128}", "1 to 128 letters, digits and . _ ~ -")]
UrlPath = Annotated[str, Matching("(/(?![.]{1,2}(/|$))[A-Za-z0-9._~-]{1,128})+", "a plain path")]
JsonObject = dict[str, JsonValue]


class V2(Section):
    """The Open Inference Protocol, version 2: Triton, MLServer, KServe."""

    name: Literal["v2"] = "v2"
    """The protocol."""


class V1(Section):
    """Version 1, as TensorFlow Serving and KServe speak it."""

    name: Literal["v1"] = "v1"
    """The protocol."""
    calls: tuple[Literal["predict", "classify", "regress"], ...] = Field(
        default=("predict",), min_length=1
    )
    """The calls that pass; the others are refused."""

    signatures: tuple[Word, ...] = ("serving_default",)
    """The values of ``signature_name`` that pass. One contract holds for all of them."""

    server: Literal["kserve", "tensorflow"] = "kserve"
    """Whose answers: TensorFlow Serving declares a model's tensors at ``/metadata``, from which the
    contract is learnt; KServe only says that the model is there."""


class Invocations(Section):
    """``/invocations``, as MLflow or a SageMaker container understands it."""

    name: Literal["invocations"] = "invocations"
    """The protocol."""
    server: Literal["mlflow", "sagemaker"] = "mlflow"
    """Whose bodies: they differ in what the same bytes mean."""

    parameters: tuple[Word, ...] = ()
    """Names of MLflow's ``params`` that pass: they change what a model answers, and are not
    inspected. Any other is refused."""

    @model_validator(mode="after")
    def _check_parameters(self) -> Invocations:
        faults = Faults()
        if self.parameters and self.server != "mlflow":
            faults.add("only MLflow has params: it would do nothing", "parameters")
        faults.report()
        return self


class Image(Section):
    """The images that a model takes, PNG or JPEG, and the numbers that are scored of one: fit the
    bundle on rows of these. Forwarded is a PNG of the same pixels. Needs the extra ``images``."""

    width: Annotated[int, Field(gt=0, le=2**14)]
    """Pixels of a scored image."""
    height: Annotated[int, Field(gt=0, le=2**14)]
    """Pixels of a scored image."""
    channels: Literal[1, 3]
    """1: grey; 3: red, green and blue. Grey images pass where there are three."""
    layout: Literal["hwc", "chw"] = "hwc"
    """Of a scored row: a pixel's channels side by side, or one channel after the other."""
    scale: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(
        default=(0.0, 1.0), min_length=2, max_length=2
    )
    """The numbers that the least and the greatest level of a channel are scored as."""
    resize: Literal["none", "stretch", "cover"] = "none"
    """``none``: an image has exactly this size. ``stretch``: any size is brought to it to be
    scored. ``cover``: likewise, in its proportions, and what protrudes is cut off on both sides.
    The model gets the image at the size that it came in."""
    max_pixels: Annotated[int, Field(gt=0, le=2**26)] = 2**22
    """Pixels of an image as it comes, refused before it is decoded."""

    @model_validator(mode="after")
    def _check(self) -> Image:
        faults = Faults()
        if self.scale[0] >= self.scale[1]:
            faults.add("the first number must be below the second", "scale")
        if self.width * self.height > self.max_pixels:
            faults.add("an image of width by height has more pixels", "max_pixels")
        faults.report()
        return self


class TorchServe(Section):
    """``/predictions/MODEL`` of TorchServe."""

    name: Literal["torchserve"] = "torchserve"
    """The protocol."""
    image: Image | None = None
    """The images that the model takes; none: they are refused, and rows come in JSON."""


class Seldon(Section):
    """Seldon Core, version 1."""

    name: Literal["seldon"] = "seldon"
    """The protocol."""
    health: UrlPath = "/health/ping"
    """The path that shows that the model is there: below the same base as the predictions. Behind
    Seldon's executor: ``/ready``."""


class CustomJson(Section):
    """JSON of one's own making: LitServe, BentoML, Ray Serve."""

    name: Literal["json"] = "json"
    """The protocol."""
    rows: str = Field(min_length=1, max_length=256, examples=["$.input"])
    """Where a request holds its rows: a JSONPath (RFC 9535) of names and indices to one place. Rows
    are lists of numbers, or objects that name the inputs of the contract."""

    single: bool = False
    """Whether the place holds one row, and not a list of rows."""

    others: tuple[Word, ...] = ()
    """Further keys of the body whose values, single strings, numbers, booleans or nulls, go on to
    the model as they are. They are not inspected. Every other key is refused."""

    answer: str | None = Field(default=None, max_length=256, examples=["$.output"])
    """Where an answer holds what the model says of the rows, as ``rows``. Needed where answers are
    judged or shaped."""

    refusal: JsonObject = {"error": "{message}"}  # noqa: RUF012 - pydantic copies it
    """The body of refusals: in its strings, ``{message}`` and ``{rule}`` are replaced, and
    ``{status}``, by a number where it is the whole string."""

    health: UrlPath | None = None
    """The server's path that shows that the model is there; it passes with GET."""

    reads: tuple[UrlPath, ...] = ()
    """Further paths of the server's that pass with GET, such as BentoML's ``/schema.json``."""


class OpenAI(Section):
    """OpenAI's chat, completions and embeddings. Texts are counted, not inspected."""

    name: Literal["openai"] = "openai"
    """The protocol."""
    calls: tuple[Literal["chat", "completions", "embeddings"], ...] = Field(
        default=("chat", "completions", "embeddings"), min_length=1
    )
    """The calls that pass; the others are refused. With a bundle: ``[embeddings]``, which it
    scores, and nothing else."""
    unit: Literal["requests", "items", "characters", "tokens"] = "requests"
    """What a row is to the limits: a request; an answer to be made (prompts times ``n``, or texts
    to be embedded); a character of text sent; or a token, as the server counts them in its answer.
    Tokens are charged afterwards, and who has spent more than there is waits until time has paid
    it. ``rows_per_request`` limits items, whatever the unit."""
    models: tuple[
        Annotated[str, Matching("[!-~]{1,256}", "1 to 256 plain characters without a space")], ...
    ] = ()
    """The models that may be asked for; none: any that the server has."""
    max_characters: Annotated[int, Field(gt=0, le=10**9)] | None = None
    """Characters of one request, its embedded images included; none: as many as its body holds."""
    max_tokens: Annotated[int, Field(gt=0, le=10**9)] | None = None
    """Tokens that one request may ask for, over all its answers; it must then say how many. None:
    any number."""
    remote_images: bool = False
    """Whether clients may have the server fetch images from ``http://`` and ``https://``."""
    parameters: tuple[Word, ...] = ()
    """Further request fields that pass, unread: those of one server alone."""
    ask_usage: bool = False
    """Whether a stream is asked to end with its count of tokens also where the client did not ask
    for it. Clients then see one more chunk. Without it such streams are charged by estimate."""
    probe: Literal["models"] | None = None
    """What shows that the server is there: ``models`` asks for its list of models. None: it is not
    asked."""


class Auto(Section):
    """Every protocol that one model may be asked by, told apart by path: v2, v1, torchserve,
    seldon and MLflow's invocations. Any other path is refused."""

    name: Literal["auto"] = "auto"
    """The protocol."""
    model: ModelName
    """The model's name in the paths."""


_WORDS: Final[dict[str, type[Section]]] = {
    "v2": V2,
    "v1": V1,
    "invocations": Invocations,
    "torchserve": TorchServe,
    "seldon": Seldon,
    "openai": OpenAI,
}
"""Those that need not be told anything."""


_Word = Literal["v2", "v1", "invocations", "torchserve", "seldon", "openai"]


def _kind(value: Any) -> Any:
    if isinstance(value, str):
        return "word" if value in _WORDS else None
    return value.get("name") if isinstance(value, dict) else getattr(value, "name", None)


def _named(name: str) -> Section:
    return _WORDS[name]()


# A word has a branch of its own: a function before the union would take the YAML's lists from the
# others, which then are no tuples.
_Told = (
    Annotated[
        V2,
        PlainValidator(_named, json_schema_input_type=_Word),
        Tag("word"),
    ]
    | Annotated[V2, Tag("v2")]
    | Annotated[V1, Tag("v1")]
    | Annotated[Invocations, Tag("invocations")]
    | Annotated[TorchServe, Tag("torchserve")]
    | Annotated[Seldon, Tag("seldon")]
    | Annotated[CustomJson, Tag("json")]
    | Annotated[OpenAI, Tag("openai")]
    | Annotated[Auto, Tag("auto")]
)

Protocol = Annotated[
    _Told,
    Discriminator(
        _kind,
        custom_error_type="no_protocol",
        custom_error_message="must name a protocol: v2, v1, invocations (MLflow, SageMaker), "
        "torchserve, seldon, openai, or with their keys {name: json, rows: …} or "
        "{name: auto, model: …}",
    ),
]
"""A protocol's name, or a mapping with its ``name`` and what it is to be told."""
