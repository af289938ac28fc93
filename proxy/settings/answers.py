"""How an endpoint's answers are read, doubted and shaped."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from proxy.settings.fields import Bytes, Seconds
from proxy.settings.section import Faults, Section

Share = Annotated[float, Field(gt=0, le=1)]
OutputName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Answer(Section):
    """How the model's answer is read, for the detectors that need it."""

    output: OutputName | None = None
    """The output tensor that holds the answer; none: the one that fits the bundle."""
    kind: Literal["auto", "probabilities", "logits", "labels", "values"] = "auto"
    """What it holds. ``auto`` tells by its datatype, its shape and whether its rows sum to 1."""
    classes: tuple[Annotated[str, StringConstraints(min_length=1, max_length=256)], ...] = Field(
        default=(), max_length=65_536
    )
    """The classes in the order of the output's columns; none: the order of the bundle's."""
    body_bytes: Bytes = 10 * 2**20
    """The size of an answer that is read, as sent and as decompressed. What a larger one becomes is
    up to ``failure_mode``: limit ``rows_per_request`` so that none is."""


class SecondOpinion(Section):
    """Asking the model again, about changed copies of a row, before an answer is passed on."""

    when: Literal["never", "suspicious", "sampled"] = "never"
    """``suspicious``: for rows that other evidence speaks against without refusing them;
    ``sampled``: for a random share of those alone."""
    share: Share = 0.25
    """Rows asked of the model for this reason, at most, as a share of those that clients asked of
    it: an attacker cannot make the firewall multiply the load."""
    sample: Share = 0.5
    """The share of suspicious rows that ``sampled`` asks about."""
    timeout_seconds: Annotated[Seconds, Field(le=60)] = 1.0
    """How long an answer waits for it, at most; then it is decided without."""

    @model_validator(mode="after")
    def _check(self) -> SecondOpinion:
        faults = Faults()
        if "sample" in self.model_fields_set and self.when != "sampled":
            faults.add(f"with when: {self.when} it would do nothing", "sample")
        if self.when == "never":
            for key in sorted(self.model_fields_set & {"share", "timeout_seconds"}):
                faults.add("with when: never it would do nothing", key)
        faults.report()
        return self


class Shaping(Section):
    """What a shaped answer looks like."""

    when: Literal["pattern", "always"] = "pattern"
    """``pattern``: for clients whose queries form a pattern, as ``on_pattern`` says; ``always``:
    for every answer."""
    mode: Literal["round", "top_k", "label", "noise"] = "round"
    """``round`` to ``decimals``; ``top_k`` leaves the best ``top_k`` scores and evens out the
    others; ``label`` leaves the best class alone; ``noise`` disturbs the scores, always in the same
    way for the same input."""
    decimals: Annotated[int, Field(ge=0, le=6)] = 1
    """Decimals that are left."""
    top_k: Annotated[int, Field(ge=1, le=1000)] = 1
    """Scores that are left."""
    noise: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 1.0
    """Standard deviation of the noise in the log-odds of two classes; for values of regression, in
    units of the last of ``decimals``."""
    keep_best: bool = True
    """Whether noise leaves the best class the best. The other modes always do."""


class Capture(Section):
    """A bounded sample of honest traffic for ``bartizan record``. It holds rows and answers as they
    came: they may be personal data."""

    rows: Annotated[int, Field(ge=100, le=1_000_000)] = 20_000
    """Rows held in memory, over all workers, at most; beyond it a new row takes the place of a
    random one."""
    rows_per_client: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Rows of one client, at most: nobody's traffic shall decide what is honest."""
    anonymise: bool = True
    """Whether times are left out of what is recorded, and clients are numbers that lead nowhere."""

    @model_validator(mode="after")
    def _check(self) -> Capture:
        faults = Faults()
        if self.rows_per_client > self.rows and "rows_per_client" in self.model_fields_set:
            faults.add(f"more than all the rows together ({self.rows})", "rows_per_client")
        faults.report()
        return self
