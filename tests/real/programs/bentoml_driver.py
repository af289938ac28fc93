"""BentoML's own client: ``{"base", "model", "rows"}``."""

import bentoml
from calls import answer_calls


def call(base, model, rows):
    with bentoml.SyncHTTPClient(base) as client:
        return client.call(model, rows=rows)


answer_calls(call, lambda fault: getattr(fault, "error_code", None))
