"""A model server that classifies digits by a linear model, and answers badly when asked to.

Run as ``judging_server.py ADDRESS MODEL.npz LOG MOOD``. Each inference becomes a JSON line in LOG.
The ``id`` of a request says how it is answered: ``lie`` (every row gets the class after its own),
``labels`` (no probabilities), ``nan``, ``rows`` (one row too many), ``truncated`` (JSON that ends
early), ``cut`` (less than was announced), ``gzip``, ``bytes`` (one at a time), ``huge``, ``error``,
or otherwise as it should be. A request without an id is answered as the file MOOD says: ``reset``,
``slow`` (never), ``lie``, or as it should be.
"""

import asyncio
import gzip
import json
import sys
from pathlib import Path

import numpy as np

MODEL = "digits"
FEATURES = 64
METADATA = {
    "name": MODEL,
    "versions": ["1"],
    "platform": "judge",
    "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, FEATURES]}],
    "outputs": [{"name": "predict_proba", "datatype": "FP64", "shape": [-1, 10]}],
}


def probabilities(weights, bias, rows):
    """(n, 64) rows to (n, 10)."""
    logits = rows @ weights + bias
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def message(status, body, *headers, length=None):
    head = [f"HTTP/1.1 {status} Judged", "Content-Type: application/json", *headers]
    head.append(f"Content-Length: {len(body) if length is None else length}")
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


class Judge:
    def __init__(self, model, log, mood):
        self.weights, self.bias = model["weights"], model["bias"]
        self.log, self.mood = log, mood

    async def serve(self, reader, writer):
        try:
            while await self.exchange(reader, writer):
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def exchange(self, reader, writer):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines[1:])}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        if lines[0].startswith("GET"):
            writer.write(message(200, json.dumps(METADATA).encode()))
            return True
        document = json.loads(body)
        [tensor] = document["inputs"]
        rows = np.reshape(tensor["data"], (-1, FEATURES))
        self.log.write(json.dumps({"id": document.get("id"), "rows": len(rows), **headers}) + "\n")
        self.log.flush()
        how = document.get("id") or self.mood.read_text()
        if how == "reset":
            writer.transport.abort()
            return False
        if how == "slow":
            await asyncio.sleep(60)
        return await self.answer(writer, how, document.get("id"), rows)

    async def answer(self, writer, how, identifier, rows):
        scores = probabilities(self.weights, self.bias, rows)
        if how == "lie":
            scores = np.roll(scores, 1, axis=1)
        if how == "rows":
            scores = np.vstack([scores, scores[:1]])
        output = {
            "name": "predict_proba",
            "datatype": "FP64",
            "shape": list(scores.shape),
            "data": scores.ravel().tolist(),
        }
        if how == "labels":
            labels = scores.argmax(axis=1)
            output = {"name": "predict", "datatype": "INT64", "shape": [len(labels)]}
            output["data"] = labels.tolist()
        text = json.dumps({"model_name": MODEL, "id": identifier, "outputs": [output]}).encode()
        match how:
            case "nan":
                text = text.replace(b'"data": [', b'"data": [NaN, ', 1)
            case "truncated":
                text = text[:-5]
            case "huge":
                text += b" " * (11 * 2**20)
        if how == "cut":
            writer.write(message(200, text, length=len(text) + 100))
            return False
        if how == "gzip":
            writer.write(message(200, gzip.compress(text), "Content-Encoding: gzip"))
        elif how == "error":
            writer.write(message(500, b'{"error": "as asked"}'))
        elif how == "bytes":
            for byte in message(200, text):
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
        else:
            writer.write(message(200, text))
        return True


async def main(address, judge):
    host, _, port = address.rpartition(":")
    async with await asyncio.start_server(judge.serve, host, int(port)) as server:
        await server.serve_forever()


if __name__ == "__main__":
    where, model, log, mood = sys.argv[1:]
    with np.load(model) as arrays, Path(log).open("a") as lines:
        asyncio.run(main(where, Judge(dict(arrays), lines, Path(mood))))
