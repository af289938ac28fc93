"""Forms of one file: as clients write them, and as attackers do."""

import pytest

from proxy.protocols.multipart import Part, boundary_of, read_part, write_part
from proxy.rules import DUPLICATE_KEY, MEDIA_TYPE, SYNTAX, Refusal

CURL = (
    b"--------------------------d74496d66958873e\r\n"
    b'Content-Disposition: form-data; name="data"; filename="kitten.jpg"\r\n'
    b"Content-Type: image/jpeg\r\n\r\n\xff\xd8\xff\r\n\r\n"
    b"--------------------------d74496d66958873e--\r\n"
)
REQUESTS = (
    b"--79b1\r\n"
    b"Content-Disposition: form-data; name=\"body\"; filename*=utf-8''k%C3%A4tzchen.png\r\n\r\n"
    b"\x89PNG\r\n--79b1--\r\n"
)


def test_what_clients_send():
    media = b"multipart/form-data; boundary=------------------------d74496d66958873e"
    boundary = boundary_of(media)
    assert read_part(CURL, boundary) == Part(b"data", b"image/jpeg", b"\xff\xd8\xff\r\n")
    assert read_part(REQUESTS, b"79b1") == Part(b"body", None, b"\x89PNG")
    assert read_part(REQUESTS[:-2], b"79b1").data == b"\x89PNG"


def test_the_boundary():
    assert boundary_of(None) is None
    assert boundary_of(b"image/png") is None
    assert boundary_of(b'Multipart/Form-Data ; Boundary="a b"'.replace(b" b", b"'b")) == b"a'b"
    for media in (
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/form-data; boundary=a; boundary=b",
        b"multipart/form-data; boundary=a b",
        b"multipart/form-data; boundary=" + b"a" * 71,
        b"multipart/form-data; boundary=a; charset=utf-8",
        b"multipart/mixed; boundary=a",
    ):
        with pytest.raises(Refusal) as refusal:
            boundary_of(media)
        assert refusal.value.rule is MEDIA_TYPE, media


NAMED = b'Content-Disposition: form-data; name="data"'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b--\r\n",
        b"--b\r\n\r\n--b--\r\n",
        b"--b\r\n\r\n\r\n--b--\r\n",
        b"x--b\r\n%b\r\n\r\nx\r\n--b--\r\n" % NAMED,
        b"\r\n--b\r\n%b\r\n\r\nx\r\n--b--\r\n" % NAMED,
        b"--b\r\n%b\r\n\r\nx\r\n--b--\r\nx" % NAMED,
        b"--b\r\n%b\r\n\r\nx\r\n--b--\r\n\r\n" % NAMED,
        b"--b\r\n%b\r\n\r\nx\r\n--b\r\n" % NAMED,
        b"--b\r\n%b\r\n\r\nx--b--\r\n" % NAMED,
        b"--b\r\n%b\r\n\r\n--b--\r\n" % NAMED,
        b"--b\n%b\n\nx\n--b--\n" % NAMED,
        b"--b\r\n%b\r\n\r\nx\r\n--b\r\n%b\r\n\r\ny\r\n--b--\r\n" % (NAMED, NAMED),
        b"--b\r\n%b\r\n\r\nx\r\n--b--\r\n--b\r\n%b\r\n\r\ny\r\n--b--\r\n" % (NAMED, NAMED),
        b"--b\r\n%b\r\n\r\nx\n--b\n%b\r\n\r\ny\r\n--b--\r\n" % (NAMED, NAMED),
        b"--b\r\n%b; x=y\r\n\r\nx\r\n--b--\r\n" % NAMED,
        b'--b\r\n%b; filename="a\\"b"\r\n\r\nx\r\n--b--\r\n' % NAMED,
        b'--b\r\n%b; name="body"\r\n\r\nx\r\n--b--\r\n' % NAMED,
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\nContent-Disposition: attachment; name=data\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n%b\r\nContent-Transfer-Encoding: base64\r\n\r\nx\r\n--b--\r\n" % NAMED,
        b"--b\r\n%b\r\n folded\r\n\r\nx\r\n--b--\r\n" % NAMED,
        b"--b\r\n%b\r\nContent-Type: %b\r\n\r\nx\r\n--b--\r\n" % (NAMED, b"a" * 5000),
    ],
)
def test_what_readers_could_take_differently(body):
    with pytest.raises(Refusal) as refusal:
        read_part(body, b"b")
    assert refusal.value.rule is SYNTAX


def test_a_header_that_comes_twice():
    with pytest.raises(Refusal) as refusal:
        read_part(b"--b\r\n%b\r\n%b\r\n\r\nx\r\n--b--\r\n" % (NAMED, NAMED), b"b")
    assert refusal.value.rule is DUPLICATE_KEY


@pytest.mark.parametrize("data", [b"", b"x", b"\r\n--b--", bytes(range(256)), b"--" * 100])
def test_what_is_written_is_read(data):
    media, body = write_part(Part(b"data", b"image/png", data))
    assert read_part(body, boundary_of(media)) == Part(b"data", b"image/png", data)
    assert (media, body) == write_part(Part(b"data", b"image/png", data))


def test_no_data_ends_its_own_part():
    _, body = write_part(Part(b"data", b"image/png", b"x"))
    boundary = body[2:34]
    media, other = write_part(Part(b"data", b"image/png", b"x\r\n--" + boundary))
    assert read_part(other, boundary_of(media)).data == b"x\r\n--" + boundary
