"""The wire is tested on the event loop that it runs on."""

from __future__ import annotations

import pytest
import uvloop
from authority import Authority


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))
