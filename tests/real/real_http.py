"""Raw requests, for servers that have no client of their own."""

from loadtest.wire import Session, render_request


def post(port, target, body, *headers):
    """The answer to one POST: ``Response(status, headers, body)``."""
    with Session(("127.0.0.1", port)) as session:
        return session.exchange(render_request("POST", target, "localhost", body, headers))
