"""What an endpoint's verdicts hang on, in a digest."""

import pytest

from proxy.settings.basis import basis, verdicts
from proxy.settings.load import load

PLAIN = """\
endpoints:
  - name: digits
    match: /v2/models/digits
    upstream: http://127.0.0.1:9000
  - name: faces
    match: /v2/models/faces
    upstream: http://127.0.0.1:9001
"""


def of(tmp_path, text=PLAIN, index=0):
    path = tmp_path / "bartizan.yaml"
    path.write_text(text)
    settings = load(path)
    return basis(settings, settings.endpoints[index])


def with_key(key):
    return PLAIN.replace("digits\n    upstream", f"digits\n    {key}\n    upstream")


@pytest.mark.parametrize(
    "text",
    [
        with_key("mode: monitor"),
        with_key("failure_mode: allow"),
        with_key("timeouts: {connect_seconds: 1}"),
        with_key("connections: 7"),
        with_key("rules: {BZ-601: {mode: 'off'}}"),
        PLAIN.replace("9001", "9002"),
        PLAIN + "    mode: monitor\n",
        "listen: 127.0.0.1:8081\n" + PLAIN,
        "http: {head_seconds: 3}\n" + PLAIN,
    ],
)
def test_it_stays(tmp_path, text):
    assert of(tmp_path, text) == of(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("9000", "9002"),
        with_key("limits: {rows_per_request: 7}"),
        with_key("contract: {inputs: [{name: x, datatype: FP32, shape: [-1, 2]}]}"),
        with_key("protocol: v1").replace("/v2/models/digits", "/v1/models/digits"),
        "client: {ipv4_prefix: 30}\n" + PLAIN,
    ],
)
def test_it_changes(tmp_path, text):
    assert of(tmp_path, text) != of(tmp_path)


def test_what_the_audit_log_is_told(tmp_path):
    path = tmp_path / "bartizan.yaml"
    path.write_text(with_key("rules: {BZ-601: {mode: 'off'}, BZ-602: {mode: monitor}}"))
    settings = load(path)
    told = verdicts(settings)
    assert told["digits"] == {
        "basis": basis(settings, settings.endpoints[0]),
        "mode": "enforce",
        "off": ["BZ-601"],
    }
    assert told["faces"]["off"] == []
    assert told["faces"]["basis"] != told["digits"]["basis"]
