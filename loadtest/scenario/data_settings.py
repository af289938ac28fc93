"""The scenario's section ``data``: where honest rows come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from proxy.settings.fields import FilePath
from proxy.settings.section import Faults, Section

Finite = Annotated[float, Field(allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=65_536)]


class Generated(Section):
    """Rows of random numbers, as wide as the model's input: for load where no data is at hand.

    To a model server they are as good as any. A fitted bundle refuses them, rightly.
    """

    rows: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """How many different rows."""
    distribution: Literal["uniform", "normal"] = "uniform"
    """``uniform`` over the box from ``low`` to ``high``, or ``normal`` around its middle, a sixth
    of it wide, and cut to it."""
    low: Finite = 0.0
    """The least value."""
    high: Finite = 1.0
    """The largest value."""

    @model_validator(mode="after")
    def _check(self) -> Generated:
        faults = Faults()
        if not self.low < self.high:
            faults.add("the box is empty: high must be above low", "high")
        faults.report()
        return self


class Data(Section):
    """The honest rows: what honest clients send, and what attackers begin with."""

    rows: FilePath | None = None
    """Honest rows that the bundle was not fitted on: .npy, .npz (``X``), .csv, .parquet, or a
    sample of live traffic from ``bartizan record``."""
    labels: FilePath | None = None
    """What the rows truly are; none: nobody knows."""
    generate: Generated | None = None
    """Random rows instead of a file."""
    test: FilePath | None = None
    """Rows by which a stolen model is judged; none: a fifth of ``rows`` is kept back."""
    members: FilePath | None = None
    """Rows that the model was trained on: what membership inference is judged by."""
    image: tuple[Side, Side] | None = None
    """Height and width, where a row is a picture of one channel."""
    low: Finite | None = None
    """The least value that a feature may take; none: each feature's least in ``rows``."""
    high: Finite | None = None
    """The largest; none: each feature's largest in ``rows``."""
    attackers: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """The share of the rows that is the attackers' own. Honest clients never send these, or an
    honest row would be the neighbour of an attack's."""

    @model_validator(mode="after")
    def _check(self) -> Data:
        faults = Faults()
        if (self.rows is None) == (self.generate is None):
            faults.add("say either rows, a file, or generate")
        if self.generate is not None:
            for key in ("labels", "members", "test", "low", "high"):
                if getattr(self, key) is not None:
                    faults.add("the rows are generated: it would do nothing", key)
        if self.low is not None and self.high is not None and not self.low < self.high:
            faults.add("the box is empty: high must be above low", "high")
        faults.report()
        return self
