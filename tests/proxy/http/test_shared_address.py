"""An address for several processes: theirs together, and nobody else's."""

import contextlib
import socket

import pytest

from proxy.http.shared_address import SharedAddress


@pytest.fixture
def hold():
    """Holds an address until the test ends."""
    with contextlib.ExitStack() as stack:

        def one(host="127.0.0.1", port=0, path=""):
            return stack.enter_context(contextlib.closing(SharedAddress(host, port, path)))

        yield one


def listening(port, *, shared=True):
    sock = socket.socket()
    if shared:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        sock.bind(("127.0.0.1", port))
        sock.listen()
    except OSError:
        sock.close()
        raise
    return sock


def test_several_listen_on_a_port_that_the_system_chose(hold):
    port = hold().port
    assert port
    with listening(port), listening(port):
        socket.create_connection(("127.0.0.1", port), 5).close()


def test_it_accepts_nothing_itself(hold):
    port = hold().port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)


def test_it_stays_ours_while_nobody_listens(hold):
    port = hold().port
    with pytest.raises(OSError, match="in use"):
        listening(port, shared=False)


@pytest.mark.parametrize("shared", [True, False])
def test_a_port_that_somebody_listens_on_is_told(hold, shared):
    with contextlib.closing(listening(0, shared=shared)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127.0.0.1:{port}: .*in use"):
            hold(port=port)


def test_every_address_of_a_name_is_held(hold):
    one = hold(host="localhost")
    names = {info[4][0] for info in socket.getaddrinfo("localhost", one.port)}
    assert "127.0.0.1" in names
    with pytest.raises(OSError, match="in use"):
        listening(one.port, shared=False)


def test_closed_it_is_free(hold):
    one = hold()
    one.close()
    listening(one.port, shared=False).close()


def test_a_unix_socket_listens_for_all(hold, tmp_path):
    path = str(tmp_path / "s")
    one = hold(path=path)
    assert one.port == 0
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        with pytest.raises(OSError, match="in use"):
            hold(path=path)
    one.close()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(path)
    hold(path=path)


def test_a_file_in_the_way_is_not_replaced(hold, tmp_path):
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(OSError, match="in use"):
        hold(path=str(path))
    assert path.read_text() == "mine"
