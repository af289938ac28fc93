"""Captures over the admin listener: bytes as they are, and every refusal in JSON."""

import contextlib
import json

import aiohttp
import pytest
from pydantic import SecretStr

from detectors.sample import SampleError
from proxy.admin.explanations import Busy
from proxy.admin.listener import AdminListener
from proxy.settings.fields import Address
from proxy.settings.models import Admin

TOKEN = "a-token-of-some-length"
ERRORS = {
    "unknown": (LookupError("no endpoint is named 'unknown'"), 404),
    "busy": (Busy("another sample is being made"), 503),
    "mixed": (SampleError("the samples differ"), 409),
}


class Source:
    async def sample(self, endpoint):
        if endpoint in ERRORS:
            raise ERRORS[endpoint][0]
        return b"\x00PK" + endpoint.encode()


@contextlib.asynccontextmanager
async def served(token=None):
    settings = Admin.model_construct(
        listen=Address("127.0.0.1", 0), token=None if token is None else SecretStr(token)
    )
    listener = AdminListener(settings, Source())
    await listener.start()
    try:
        yield f"http://127.0.0.1:{listener.port}/api/v1/captures"
    finally:
        await listener.close()


async def ask(url, headers=None):
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, answer.content_type, await answer.read()


async def test_the_sample_is_sent_as_it_is():
    async with served() as url:
        assert await ask(f"{url}/digits") == (200, "application/octet-stream", b"\x00PKdigits")


@pytest.mark.parametrize("endpoint", ERRORS)
async def test_what_cannot_be_handed_over_is_told(endpoint):
    error, expected = ERRORS[endpoint]
    async with served() as url:
        status, kind, body = await ask(f"{url}/{endpoint}")
        assert (status, kind) == (expected, "application/json")
        assert json.loads(body) == {"error": str(error)}


async def test_nothing_else_is_asked():
    async with served() as url:
        assert (await ask(f"{url}/digits?rows=3"))[0] == 400


async def test_it_takes_the_token():
    async with served(TOKEN) as url:
        assert (await ask(f"{url}/digits"))[0] == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert (await ask(f"{url}/digits", headers))[0] == 200
