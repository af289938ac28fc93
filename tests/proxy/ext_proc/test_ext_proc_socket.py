"""The unix socket that Envoy asks at: whoever can connect is believed."""

import os
import socket
import stat
from contextlib import contextmanager

import pytest
from envoy_ends import Application, Filter
from grpc import aio

from proxy.ext_proc.listener import Listener


@contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        assert os.umask(before) == mask, "it is put back"


def listener_at(path):
    return Listener(Application(), f"unix:{path}", clock=lambda: 0.0)


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
async def test_user_and_group_alone_may_connect(tmp_path, mask):
    path = tmp_path / "s"
    listener = listener_at(path)
    with umask(mask):
        await listener.start()
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        async with aio.insecure_channel(f"unix:{path}") as channel:
            assert (await Filter(channel).exchange()).status == 200
    finally:
        await listener.close()


async def test_a_socket_in_use_is_left_to_its_owner(tmp_path):
    path = tmp_path / "s"
    owner, second = listener_at(path), listener_at(path)
    await owner.start()
    try:
        with pytest.raises(OSError, match="in use"):
            await second.start()
        await second.close()
        async with aio.insecure_channel(f"unix:{path}") as channel:
            assert (await Filter(channel).exchange()).status == 200
        assert len(owner.application.handled) == 1
    finally:
        await owner.close()


async def test_the_socket_of_who_is_gone_is_replaced(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    listener = listener_at(path)
    await listener.start()
    try:
        async with aio.insecure_channel(f"unix:{path}") as channel:
            assert (await Filter(channel).exchange()).status == 200
    finally:
        await listener.close()


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path):
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(OSError, match="cannot be listened on"):
        await listener_at(path).start()
    assert path.read_text() == "precious"
