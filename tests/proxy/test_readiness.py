"""Ready means that a client can connect: neither before the socket listens nor while it drains."""

from types import SimpleNamespace

from proxy.server import Server
from proxy.settings.load import load


async def test_ready_only_between_listening_and_draining(tmp_path):
    path = tmp_path / "bartizan.yaml"
    path.write_text('endpoints: [{name: m, match: /v2/models/m, upstream: "http://127.0.0.1:1"}]')
    server = Server(load(path, environment={}), None)
    problems = []
    server._generation = SimpleNamespace(problems=lambda: problems)
    assert await server.ready() == ["not listening yet"]
    server.listening.set()
    assert await server.ready() == []
    problems.append("m: away")
    assert await server.ready() == ["m: away"]
    server._draining = True
    assert await server.ready() == ["draining"]
