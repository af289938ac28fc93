"""Ready means that a client can connect: neither before the socket listens nor while it drains."""

import asyncio
from types import SimpleNamespace

import pytest

import proxy.server
from proxy.fleet import Member
from proxy.server import Prepared, Server
from proxy.settings.load import load
from proxy.supervisor import _Supervisor


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


@pytest.mark.parametrize(
    ("answers", "reasons"),
    [
        ([[], []], []),
        ([[], ["m: away"]], ["worker 2: m: away"]),
        ([[], TimeoutError()], ["worker 2: does not answer"]),
        ([[], ConnectionResetError()], []),  # killed as it was asked: it gets no connection
        ([ConnectionResetError()], ["no worker serves"]),
        ([], ["no worker serves"]),
    ],
)
async def test_workers_are_ready_if_each_that_lives_is(answers, reasons, tmp_path):
    async def ask_all(*_, **__):
        return dict(zip(map(Member, (1, 2)), answers, strict=False))

    supervisor = _Supervisor(tmp_path, None, None, None, None)
    complete = asyncio.Event()
    complete.set()
    supervisor._fleet = SimpleNamespace(ask_all=ask_all, complete=complete)
    assert await supervisor.ready() == reasons


async def test_a_reload_asks_the_models_while_the_old_configuration_serves(tmp_path, monkeypatch):
    """A health check would take out what answers every request."""
    path = tmp_path / "bartizan.yaml"
    path.write_text('endpoints: [{name: m, match: /v2/models/m, upstream: "http://127.0.0.1:1"}]')
    given = load(path, environment={})
    server = Server(given, None)
    asked = asyncio.Event()

    def generation(*problems):
        return SimpleNamespace(
            problems=lambda: list(problems),
            watches=[SimpleNamespace(asked=asked)],
            pipeline=SimpleNamespace(endpoints=[]),
            work=list,
            settings=given,
            bundles={},
            digest="",
        )

    quiet = SimpleNamespace(event=lambda *_, **__: None, resize=lambda _: None)
    server._shared = SimpleNamespace(state=quiet, audit=quiet, recording=None)
    server._generation = generation()
    monkeypatch.setattr(proxy.server, "build", lambda *_: generation("m: away"))
    listener = SimpleNamespace(application=None, renew=lambda: None)
    server._listeners = [listener]
    server.listening.set()
    commit = asyncio.create_task(server.commit(Prepared(given, {}, server._address)))
    await asyncio.sleep(0)
    assert not listener.application
    assert await server.ready() == []
    asked.set()
    await commit
    assert listener.application
    assert await server.ready() == ["m: away"]
