"""Explanations over the admin listener: what may be asked, and who may ask it."""

import contextlib
import json

import aiohttp
import pytest
from pydantic import SecretStr

from proxy.admin.explanations import Busy
from proxy.admin.listener import AdminListener
from proxy.control import Refusal
from proxy.settings.fields import Address
from proxy.settings.models import Admin
from proxy.supervisor import _explained

TOKEN = "a-token-of-some-length"


class Source:
    """One exchange that is kept."""

    def __init__(self):
        self.asked = []

    async def explanation(self, exchange):
        self.asked.append(exchange)
        if exchange == "busy":
            raise Busy("4 explanations are being made")
        return {"id": exchange, "notes": []} if exchange == "01-kept" else None


@contextlib.asynccontextmanager
async def served(source, token=None):
    settings = Admin.model_construct(
        listen=Address("127.0.0.1", 0), token=None if token is None else SecretStr(token)
    )
    listener = AdminListener(settings, source)
    await listener.start()
    try:
        yield f"http://127.0.0.1:{listener.port}/api/v1/explanations"
    finally:
        await listener.close()


async def ask(url, method="GET", headers=None):
    """Status and JSON."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=headers) as answer,
    ):
        assert answer.content_type == "application/json"
        return answer.status, json.loads(await answer.read())


async def test_an_exchange_that_is_kept():
    async with served(Source()) as url:
        assert await ask(f"{url}/01-kept") == (200, {"id": "01-kept", "notes": []})


async def test_one_that_is_not_kept_any_more():
    async with served(Source()) as url:
        status, answer = await ask(f"{url}/01-gone")
        assert status == 404
        assert "not any more" in answer["error"]


async def test_too_many_at_once():
    async with served(Source()) as url:
        assert await ask(f"{url}/busy") == (503, {"error": "4 explanations are being made"})


@pytest.mark.parametrize("path", ["/%00", "/a%20b", "/" + "a" * 129, "/01-kept?endpoint=digits"])
async def test_what_is_no_request_id_is_not_asked(path):
    source = Source()
    async with served(source) as url:
        status, _ = await ask(url + path)
        assert status == 400
    assert source.asked == []


async def test_nothing_can_be_changed_and_nothing_is_listed():
    async with served(Source()) as url:
        for method in ("POST", "PUT", "DELETE"):
            assert (await ask(f"{url}/01-kept", method))[0] == 405
        for path in ("", "/"):
            assert (await ask(url + path))[0] == 404


async def test_rows_are_for_who_has_the_token():
    source = Source()
    async with served(source, TOKEN) as url:
        assert (await ask(f"{url}/01-kept"))[0] == 401
        assert (await ask(f"{url}/01-kept", headers={"Authorization": "Bearer wrong"}))[0] == 401
        assert source.asked == []
        known = {"Authorization": f"Bearer {TOKEN}"}
        assert (await ask(f"{url}/01-kept", headers=known))[0] == 200


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([None, {"id": "one"}], {"id": "one"}),
        ([TimeoutError(), {"id": "one"}], {"id": "one"}),
        ([None, None], None),
        ([None, Refusal("busy", "4 at once")], "4 at once"),
        ([None, TimeoutError()], "did not answer"),
        ([None, Refusal("fault", "secret")], "did not answer"),
        ([], "did not answer"),
    ],
)
def test_what_several_workers_say(answers, found):
    if isinstance(found, str):
        with pytest.raises(Busy, match=found):
            _explained(answers)
    else:
        assert _explained(answers) == found
