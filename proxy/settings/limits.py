"""The configuration of limits: how long a server may take, and how much a client may send."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, model_validator

from proxy.settings.fields import Bytes, Seconds
from proxy.settings.section import Faults, Section

Count = Annotated[int, Field(gt=0, le=10**12)]


class Timeouts(Section):
    """How long the model server may take, in seconds."""

    connect_seconds: Seconds = 2.0
    """To accept a connection."""
    response_seconds: Seconds = 30.0
    """From the last byte of the request to the head of the answer."""
    total_seconds: Seconds = 60.0
    """From the first byte of the request to the last of the answer."""
    queue_seconds: Seconds = 1.0
    """How long a request may wait for a free connection."""

    @model_validator(mode="after")
    def _check(self) -> Timeouts:
        faults = Faults()
        if self.response_seconds > self.total_seconds:
            faults.add(
                f"response_seconds ({self.response_seconds:g}) can never pass: total_seconds is "
                f"{self.total_seconds:g}",
                "response_seconds"
                if "response_seconds" in self.model_fields_set
                else "total_seconds",
            )
        faults.report()
        return self


class Quota(Section):
    """How many rows may pass: a rate with a burst, an allowance for a day, both or neither."""

    rows_per_second: Annotated[float, Field(ge=1e-4, le=1e7, allow_inf_nan=False)] | None = None
    """The sustained rate of rows; none: no limit on the rate."""
    burst_rows: Count | None = None
    """Rows that may come at once; none: one second's worth, and at least one request's."""
    rows_per_day: Count | None = None
    """Rows in a day, from midnight to midnight UTC; none: no daily limit."""

    @model_validator(mode="after")
    def _check_quota(self) -> Quota:
        faults = Faults()
        if self.burst_rows is not None and self.rows_per_second is None:
            faults.add("burst_rows needs rows_per_second beside it", "burst_rows")
        faults.report()
        return self

    @property
    def is_unlimited(self) -> bool:
        """True if nothing is limited."""
        return self.rows_per_second is None and self.rows_per_day is None

    def burst(self, rows_per_request: int) -> int:
        """The burst in rows, stated or not: 0 if the rate is not limited."""
        if self.rows_per_second is None:
            return 0
        return self.burst_rows or max(math.ceil(self.rows_per_second), rows_per_request)


class Limits(Quota):
    """What one client may send, and how large one request may be."""

    rows_per_request: Annotated[int, Field(gt=0, le=10**7)] = 1024
    """Rows in one request."""
    body_bytes: Bytes = 10 * 2**20
    """The size of a request's body, as sent and as decompressed."""
    expanded_ratio: Annotated[float, Field(ge=1, le=10_000)] = 20.0
    """How many times its size a compressed body may grow. JSON numbers shrink to a half, sparse
    images to a tenth; memory for reading JSON comes on top."""
