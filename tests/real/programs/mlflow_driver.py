"""MLflow's own clients: of its deployments (``{"base", "endpoint", "inputs"}``) and of its scoring
server (``{"base", "columns", "rows"}``). ``retries`` is what a user sets in the environment.
"""

import os

import pandas as pd
from calls import answer_calls
from mlflow.deployments import get_deploy_client
from mlflow.pyfunc.scoring_server.client import ScoringServerClient


def call(base, endpoint=None, inputs=None, columns=None, rows=None, retries=None):
    if endpoint is None:
        host, _, port = base.removeprefix("http://").partition(":")
        client = ScoringServerClient(host, port)  # it puts them together again, a path as well
        answer = client.invoke(pd.DataFrame(rows, columns=columns))
        return answer.get_predictions().to_numpy().tolist()
    os.environ.pop("MLFLOW_HTTP_REQUEST_MAX_RETRIES", None)
    if retries is not None:
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = str(retries)
    return get_deploy_client(base).predict(endpoint=endpoint, inputs=inputs)


def status(fault):
    response = getattr(fault, "response", None)
    return response.status_code if response is not None else None


answer_calls(call, status)
