"""Raw requests, for servers that have no client of their own."""

import json

from loadtest.wire import Session, render_request


def post(port, target, body, *headers):
    """The answer to one POST: ``Response(status, headers, body)``."""
    with Session(("127.0.0.1", port)) as session:
        return session.exchange(render_request("POST", target, "localhost", body, headers))


def post_json(port, target, document):
    """The answer to a document."""
    body = json.dumps(document).encode()
    return post(port, target, body, ("Content-Type", "application/json"))
