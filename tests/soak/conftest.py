"""One firewall for many hostile requests."""

import sys

import pytest
from gateway import Gateway
from recorder import FEATURES, MODEL

from loadtest.process import Process


@pytest.fixture(scope="module")
def guard(tmp_path_factory, digits_bundle):
    """A firewall that scores, limits and audits, before an upstream that costs little."""
    folder = tmp_path_factory.mktemp("soak")
    command = [sys.executable, "-m", "loadtest.echo", "--model", f"{MODEL}={FEATURES}"]
    upstream = Process("echo", command, folder / "echo.log")
    try:
        _, port = upstream.wait_for_line()
        endpoint = {
            "name": MODEL,
            "match": f"/v2/models/{MODEL}",
            "upstream": f"http://127.0.0.1:{port}",
            "bundle": str(digits_bundle),
            # Large requests are to reach the scorer, not to stop at a limit.
            "limits": {"rows_per_request": 10**6, "rows_per_second": 10**7},
        }
        # Little is kept: minutes of load must not fill the disk.
        audit = {"rotate_bytes": "8MiB", "keep": 2}
        http = {"body_seconds": 5.0, "head_seconds": 5.0}
        gateway = Gateway(folder, [endpoint], audit=audit, http=http)
        try:
            yield gateway.start()
        finally:
            gateway.stop()
    finally:
        upstream.stop()
