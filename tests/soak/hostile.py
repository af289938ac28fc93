"""Requests that are made to cost a server more than they cost their sender."""

import contextlib
import gzip
import json
import socket

from recorder import FEATURES, MODEL

from loadtest.payloads import infer_target
from loadtest.wire import render_request

TARGET = infer_target(MODEL)
MEBIBYTE = 1 << 20


def infer_body(data, shape=(1, FEATURES), **extra):
    tensor = {"name": "input", "datatype": "FP32", "shape": list(shape), "data": data}
    return json.dumps({"inputs": [tensor], **extra}).encode()


def post(body, *headers):
    return render_request("POST", TARGET, "localhost", body, headers)


def chunked(body, size):
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(body[at : at + size]), body[at : at + size])
        for at in range(0, len(body), size)
    )
    head = f"POST {TARGET} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head.encode() + chunks + b"0\r\n\r\n"


def numbers():
    """Nearly ten mebibytes of honest rows."""
    count = 9 * MEBIBYTE // len(json.dumps(ROW))
    return infer_body(ROW * count, (count, FEATURES))


def many_tensors():
    tensor = {"datatype": "FP32", "shape": [1], "data": [1]}
    return json.dumps({"inputs": [{"name": f"t{n}", **tensor} for n in range(100_000)]}).encode()


def binary_size_lie():
    data = f'"data": {json.dumps(ROW)}'.encode()
    header = HONEST.replace(data, b'"parameters": {"binary_data_size": 1099511627776}')
    return post(header + bytes(256), ("Inference-Header-Content-Length", str(len(header))))


ROW = [0.5] * FEATURES
HONEST = infer_body(ROW)
GZIP = ("Content-Encoding", "gzip")
HEAD = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n"

# Name to a function that makes the bytes: some are large, and not every run needs them.
HOSTILE = {
    "ten-mebibytes-of-numbers": lambda: post(numbers()),
    "ten-mebibytes-of-spaces": lambda: post(HONEST.ljust(10 * MEBIBYTE)),
    "ten-mebibytes-in-one-string": lambda: post(infer_body(["a" * (9 * MEBIBYTE)])),
    "eleven-mebibytes": lambda: post(HONEST.ljust(11 * MEBIBYTE)),
    "gzip-of-spaces": lambda: post(gzip.compress(HONEST.ljust(150 * MEBIBYTE)), GZIP),
    "gzip-of-numbers": lambda: post(gzip.compress(numbers()), GZIP),
    "gzip-of-gzip": lambda: post(gzip.compress(gzip.compress(bytes(99 * MEBIBYTE))), GZIP),
    "one-byte-chunks": lambda: chunked(HONEST.ljust(1_000_000), 1),
    "deep-lists": lambda: post(b"[" * MEBIBYTE),
    "deep-data": lambda: post(infer_body([]).replace(b"[]", b"[" * 10**6 + b"]" * 10**6)),
    "deep-objects": lambda: post(b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
    "many-keys": lambda: post(json.dumps(dict.fromkeys(map(str, range(300_000)), 1)).encode()),
    "many-tensors": lambda: post(many_tensors()),
    "empty-lists": lambda: post(infer_body([[]] * 1_000_000)),
    "small-integers": lambda: post(infer_body([7] * 3_000_000)),
    "shape-lie": lambda: post(infer_body(ROW, (1 << 40, FEATURES))),
    "shape-overflow": lambda: post(infer_body(ROW, (1 << 62, 1 << 62, 1 << 62))),
    "shape-of-ones": lambda: post(infer_body([0.5], (1,) * 100_000)),
    "binary-size-lie": binary_size_lie,
    "long-head": lambda: HEAD + b"X-Long: " + b"a" * MEBIBYTE,
    "many-headers": lambda: HEAD + b"A: b\r\n" * 100_000,
    "long-target": lambda: b"GET /" + b"a" * MEBIBYTE + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "nothing-but-newlines": lambda: b"\r\n" * 500_000,
    "announced-and-not-sent": lambda: post(b"a" * 9 * MEBIBYTE)[:200],
}


def send(address, request):
    """The status of the answer; 0 if the connection ended without one."""
    data = b""
    # It may be answered and closed before all of it was sent.
    with socket.create_connection(address, 60) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while got := connection.recv(1 << 16):
                data += got
    return int(data[9:12]) if data else 0
