"""Ready means that a client can connect: neither before the socket listens nor while it drains."""

from types import SimpleNamespace

from proxy.server import _Server
from proxy.settings.load import load


def test_ready_only_between_listening_and_draining(tmp_path):
    path = tmp_path / "bartizan.yaml"
    path.write_text('endpoints: [{name: m, match: /v2/models/m, upstream: "http://127.0.0.1:1"}]')
    server = _Server(path, load(path, environment={}), None)
    problems = []
    server._generation = SimpleNamespace(problems=lambda: problems)
    assert server.ready() == ["not listening yet"]
    server._listening = True
    assert server.ready() == []
    problems.append("m: away")
    assert server.ready() == ["m: away"]
    server._draining = True
    assert server.ready() == ["draining"]
