"""boto3's ``sagemaker-runtime``: ``{"base", "endpoint", "body" (base64), "content_type"}``."""

import base64

import boto3
from calls import answer_calls

clients = {}


def call(base, endpoint, body, content_type, accept=None):
    if base not in clients:
        clients[base] = boto3.client(
            "sagemaker-runtime",
            endpoint_url=base,
            region_name="us-east-1",
            aws_access_key_id="none",
            aws_secret_access_key="none",
        )
    answer = clients[base].invoke_endpoint(
        EndpointName=endpoint,
        Body=base64.b64decode(body),
        ContentType=content_type,
        **({"Accept": accept} if accept else {}),
    )
    return {
        "content_type": answer.get("ContentType"),
        "body": base64.b64encode(answer["Body"].read()).decode(),
    }


def status(fault):
    answer = getattr(fault, "response", None)
    if answer is None:
        return None
    return f"{answer['ResponseMetadata']['HTTPStatusCode']} {answer['Error']['Code']}"


answer_calls(call, status)
