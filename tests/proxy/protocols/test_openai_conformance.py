"""The conformance suite over OpenAI's embeddings: texts there, vectors back."""

import base64
import json

import numpy as np
from conformance import OF_ANSWERS, CodecConformance
from conformance_bodies import LITERALS, JsonBodies
from conformance_wire import Wire, array_of, columns, matrices
from plain_json import written

from proxy.protocols.openai import OpenAI


class Texts(Wire):
    """A wire without numbers."""

    number = "BYTES"


class OverOpenAI(JsonBodies, CodecConformance):
    kind = OpenAI
    wire = Texts(
        datatypes={"BYTES"},
        names=("input",),
        shapes=columns,
        shape=lambda rows: (rows,),
        answers={"FP32"},
        answer_names=("embedding",),
        answer_shapes=matrices,
    )

    def codec(self, contract, **bounds):
        return OpenAI("/v1", contract, calls=("embeddings",), unit="items", **bounds)

    def target(self):
        return "/v1/embeddings"

    def write(self, named):
        ((_, array),) = named.values()
        return written({"model": "m", "input": [text.decode() for text in array]})

    def parse(self, headers, body):
        given = json.loads(body)["input"]
        texts = [given] if isinstance(given, str) else given
        if not isinstance(texts[0], str):
            return {}  # a mutant that sends tokens
        return {"input": array_of("BYTES", texts, (len(texts),))}

    def wrong(self, datatype):
        """One of two texts: alone, a number would be a token."""
        headers, body = self.write(self.wire.example(datatype, 2))
        for literal in LITERALS[datatype]:
            yield headers, body.replace(b'"a0"', literal.encode())

    def write_answer(self, named):
        ((_, array),) = named.values()
        data = [
            {"object": "embedding", "index": index, "embedding": self.vector(row)}
            for index, row in enumerate(array)
        ]
        usage = {"prompt_tokens": 3, "total_tokens": 3}
        # Not in their order: a reader that goes by the place is wrong.
        told = {"object": "list", "data": data[::-1], "model": "m", "usage": usage}
        return written(told)

    def parse_answer(self, headers, body):
        told = json.loads(body)
        assert told["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        data = sorted(told["data"], key=lambda item: item["index"])
        return {"embedding": np.array([self.numbers(item["embedding"]) for item in data])}


_NO_ROWS = {
    "test_a_request_is_left_as_it_was_read": "texts are no rows of numbers",
    "test_other_rows_are_asked_about_in_the_same_way": "texts are not changed",
}


class TestFloats(OverOpenAI, without=_NO_ROWS):
    def vector(self, row):
        return row.astype(float).tolist()

    def numbers(self, given):
        return np.array(given, "<f4")


class TestBase64(OverOpenAI, without=_NO_ROWS):
    def vector(self, row):
        return base64.b64encode(row.tobytes()).decode()

    def numbers(self, given):
        return np.frombuffer(base64.b64decode(given), "<f4")


_UNREAD = dict.fromkeys(OF_ANSWERS, "answers stream by unread")


def text_of(content):
    """A text, or whatever stands for one."""
    return content if isinstance(content, str) else json.dumps(content)


class TestChat(
    OverOpenAI, without=_NO_ROWS | _UNREAD | {"test_too_many_rows": "a request is a conversation"}
):
    """Of one message: texts that are counted, and no tensor."""

    wire = Texts(
        datatypes={"BYTES"}, names=("texts",), shapes=columns, shape=lambda rows: (rows,), rows=1
    )

    def codec(self, contract, **bounds):
        return OpenAI("/v1", contract, calls=("chat",), unit="items", **bounds)

    def target(self):
        return "/v1/chat/completions"

    def write(self, named):
        ((_, array),) = named.values()
        messages = [{"role": "user", "content": text.decode()} for text in array]
        return written({"model": "m", "messages": messages, "temperature": 0.5})

    def parse(self, headers, body):
        texts = [text_of(message.get("content")) for message in json.loads(body)["messages"]]
        return {"texts": array_of("BYTES", texts, (len(texts),))}

    def seen(self, request):
        return self.parse({}, json.dumps(request.options["document"]))

    def wrong(self, datatype):
        """But for null and []: a message that calls tools has no content, or no parts of it."""
        headers, body = self.write(self.wire.example(datatype))
        for literal in set(LITERALS[datatype]) - {"null", "[]"}:
            yield headers, body.replace(b'"a0"', literal.encode())


class TestCompletions(TestChat):
    """Of one prompt."""

    def codec(self, contract, **bounds):
        return OpenAI("/v1", contract, calls=("completions",), unit="items", **bounds)

    def target(self):
        return "/v1/completions"

    def write(self, named):
        ((_, array),) = named.values()
        return written({"model": "m", "prompt": array[0].decode(), "max_tokens": 5})

    def parse(self, headers, body):
        return {"texts": array_of("BYTES", [text_of(json.loads(body)["prompt"])], (1,))}
