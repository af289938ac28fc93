"""Seldon's own client: ``{"endpoint": "host:port", "rows", "form": whether as a form field}``.

It tells of a refusal by ``success``, not by an exception.
"""

import numpy as np
from calls import answer_calls
from seldon_core.seldon_client import SeldonClient


def call(endpoint, rows, form=False):
    data = np.array(rows)
    if form:
        client = SeldonClient(microservice_endpoint=endpoint)
        answer = client.microservice(data=data, transport="rest", method="predict")
    else:
        client = SeldonClient(gateway="seldon", gateway_endpoint=endpoint)
        answer = client.predict(data=data, transport="rest", payload_type="ndarray")
    return {"success": answer.success, "message": answer.msg, "answer": answer.response}


answer_calls(call)
