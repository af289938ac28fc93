"""A model server that records every request it sees, and misbehaves when asked to.

Run as ``recording_server.py ADDRESS LOG [MODEL=FEATURES …]``; the address is ``HOST:PORT`` or
``unix:PATH``. Each request becomes a JSON line in LOG before it is answered. The ``id`` of an
inference request says how it is answered: ``status:500``, ``delay:SECONDS``, ``reset`` (no answer),
``cut`` (half of one), ``garbage`` (not HTTP), ``scores`` (three probabilities beside the label), or
otherwise with the request's own id and its body's SHA-256.
"""

import asyncio
import hashlib
import json
import sys
from pathlib import Path

SCORES = [0.2625, 0.7, 0.0375]


def pages(models):
    table = {
        "/v2": {"name": "recorder", "version": "1", "extensions": ["binary_tensor_data"]},
        "/v2/health/live": None,
        "/v2/health/ready": None,
    }
    for name, features in models.items():
        table[f"/v2/models/{name}/ready"] = None
        table[f"/v2/models/{name}"] = {
            "name": name,
            "versions": ["1"],
            "platform": "recorder",
            "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, features]}],
            "outputs": [{"name": "label", "datatype": "INT64", "shape": [-1]}],
        }
    return {
        path: b"" if page is None else json.dumps(page).encode() for path, page in table.items()
    }


def answer(status, body):
    return (
        f"HTTP/1.1 {status} Recorded\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


class Recorder:
    def __init__(self, log, models):
        self.log = log
        self.pages = pages(models)

    async def serve(self, reader, writer):
        try:
            while await self.exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def exchange(self, reader, writer):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        method, target, _ = lines[0].split(" ", 2)
        headers = [line.split(": ", 1) for line in lines[1:]]
        # Everything that arrives here was built by the firewall: one Content-Length, or no body.
        (length,) = [v for k, v in headers if k.lower() == "content-length"] or ["0"]
        body = await reader.readexactly(int(length))
        digest = hashlib.sha256(body).hexdigest()
        seen = {"method": method, "target": target, "headers": headers, "sha256": digest}
        self.log.write(json.dumps(seen) + "\n")
        self.log.flush()
        if method == "GET":
            page = self.pages.get(target)
            writer.write(answer(404, b"{}") if page is None else answer(200, page))
            return True
        return await self.infer(writer, body, digest, dict(headers))

    async def infer(self, writer, body, digest, headers):
        size = {k.lower(): v for k, v in headers.items()}.get("inference-header-content-length")
        document = json.loads(body[: int(size)] if size else body)
        order, _, argument = document.get("id", "").partition(":")
        output = {"name": "label", "datatype": "INT64", "shape": [1], "data": [3]}
        told = {"model_name": "m", "outputs": [output], "parameters": {"sha256": digest}}
        if "id" in document:
            told["id"] = document["id"]
        if order == "scores":
            scores = {"name": "scores", "datatype": "FP32", "shape": [1, 3]}
            told["outputs"].append({**scores, "data": SCORES})
        reply = answer(200, json.dumps(told).encode())
        match order:
            case "status":
                reply = answer(int(argument), b'{"error":"as asked"}')
            case "delay":
                await asyncio.sleep(float(argument))
            case "reset":
                writer.transport.abort()
                return False
            case "cut":
                writer.write(reply[: len(reply) // 2 + 40])
                await writer.drain()
                return False
            case "garbage":
                reply = b"this is not HTTP\r\n\r\n"
        writer.write(reply)
        await writer.drain()
        return True


async def main(address, log, *models):
    recorder = Recorder(log, {n: int(f) for n, _, f in (m.partition("=") for m in models)})
    if address.startswith("unix:"):
        server = await asyncio.start_unix_server(recorder.serve, address[5:], limit=1 << 26)
    else:
        host, _, port = address.rpartition(":")
        server = await asyncio.start_server(recorder.serve, host, int(port), limit=1 << 26)
    await server.serve_forever()


with Path(sys.argv[2]).open("a", encoding="utf-8") as file:
    asyncio.run(main(sys.argv[1], file, *sys.argv[3:]))
