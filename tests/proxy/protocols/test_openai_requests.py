"""Requests of OpenAI's API: what passes, what is refused, and how much they amount to."""

import json

import numpy as np
import pytest

from proxy.protocols.base import Holds
from proxy.protocols.contract import Contract, ContractError
from proxy.protocols.openai import OpenAI
from proxy.rules import (
    CLIENT_RATE,
    DUPLICATE_KEY,
    INTERNAL,
    MEDIA_TYPE,
    OUTLIER,
    PARAMETER,
    ROWS_PER_REQUEST,
    SHAPE,
    SYNTAX,
    VALUE,
    Refusal,
)

JSON = {b"content-type": b"application/json"}
PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
}
HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def read(call, document, head=JSON, **keywords):
    codec = OpenAI("/v1", Contract(), **{"max_rows": 1000, **keywords})
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return codec, codec.decode_request(head, body, codec.route("POST", PATHS[call]))


def refused(call, document, **keywords):
    with pytest.raises(Refusal) as caught:
        read(call, document, **keywords)
    return caught.value.rule


def forwarded(call, document, **keywords):
    codec, request = read(call, document, **keywords)
    lines, body = codec.encode_request(request)
    assert lines == b"content-type: application/json\r\n"
    return body


def units(call, document, unit, **keywords):
    _, request = read(call, document, unit=unit, **keywords)
    assert request.rows.shape == (request.n, 0)
    return request.n


def chat(*content, **fields):
    messages = [{"role": "user", "content": one} for one in content]
    return {"model": "m", "messages": messages, **fields}


def call(arguments):
    function = {"name": "f", "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": "1", "type": "function", "function": function}


def part(kind, value):
    return {"type": kind, kind: value}


PICTURE = "data:image/png;base64,iVBORw0KGgo="

# What is forwarded.


def test_fields_have_one_order_and_nulls_are_left_out():
    body = (
        b'{"temperature":0.5,"stop":null,"n":2,'
        b'"messages":[{"role":"user","content":"\\u0041"}],"model":"m"}'
    )
    assert forwarded("chat", body) == (
        b'{"model":"m","messages":[{"role":"user","content":"A"}],"n":2,"temperature":0.5}'
    )


def test_what_the_operator_vouches_for_passes_unread():
    document = {**HELLO, "top_k": 5, "best_of": "all", "guided_json": {"a": [1]}}
    assert refused("chat", document) is PARAMETER
    body = forwarded("chat", document, parameters=("top_k", "guided_json", "best_of"))
    assert list(json.loads(body)) == ["model", "messages", "best_of", "guided_json", "top_k"]


FULL = {
    "chat": {
        **HELLO,
        "messages": [
            {"role": "system", "content": [part("text", "Be brief.")]},
            {"role": "user", "name": "a", "content": [
                part("text", "See"), part("image_url", {"url": PICTURE, "detail": "low"}),
                part("image_url", PICTURE), part("input_audio", {"data": "UklG", "format": "wav"}),
            ]},
            {"role": "assistant", "content": None, "refusal": None, "annotations": [],
             "tool_calls": [{"id": "1", "type": "function",
                             "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "3"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": "auto", "response_format": {"type": "json_object"},
        "stream": True, "stream_options": {"include_usage": True}, "logprobs": True,
        "top_logprobs": 2, "n": 1, "max_completion_tokens": 9, "seed": -3, "stop": ["a"],
        "logit_bias": {"50256": -100}, "metadata": {"a": "b"}, "parallel_tool_calls": False,
        "reasoning_effort": "low", "user": "u", "temperature": 0, "top_p": 0.5,
        "presence_penalty": -1, "frequency_penalty": 1, "prediction": {"type": "content"},
    },
    "completions": {
        "model": "m", "prompt": ["a", "b"], "best_of": 3, "n": 2, "echo": False, "logprobs": 2,
        "suffix": "z", "max_tokens": 0, "stop": "x",
    },
    "embeddings": {"model": "m", "input": "a", "dimensions": 8, "encoding_format": "base64",
                   "user": "u"},
}  # fmt: skip


@pytest.mark.parametrize("call", FULL)
def test_all_that_clients_send_passes_as_it_is(call):
    assert json.loads(forwarded(call, FULL[call])) == FULL[call]


# What is refused.

WRONG = [
    ("chat", [], SYNTAX),
    ("chat", {}, SYNTAX),
    ("chat", {"messages": []}, SYNTAX),
    ("chat", {"messages": "hello"}, SYNTAX),
    ("chat", {"messages": ["hello"]}, SYNTAX),
    ("chat", {"messages": [{"content": "x"}]}, SYNTAX),
    ("chat", {"messages": [{"role": 3, "content": "x"}]}, SYNTAX),
    ("chat", {"messages": [{"role": "user", "content": 3}]}, SYNTAX),
    ("chat", {"messages": [{"role": "user", "context": "x"}]}, PARAMETER),
    *(
        ("chat", {"messages": [{"role": "assistant", **more}]}, VALUE)
        for more in (
            {"name": {"a": 1}},
            {"refusal": ["x"]},
            {"reasoning_content": {}},
            {"tool_call_id": 3},
            {"audio": "x"},
            {"annotations": [1, 2]},
            {"annotations": {}},
            {"function_call": "f"},
            {"function_call": {"name": "f", "arguments": {"a": 1}}},
            {"function_call": {"name": "f", "more": "x"}},
            {"tool_calls": {}},
            {"tool_calls": [{"type": "function"}]},
            {"tool_calls": [{"type": "custom", "function": {"name": "f"}}]},
            {"tool_calls": [{"type": "function", "function": {"arguments": {"a": 1}}}]},
        )
    ),
    ("chat", chat(["x"]), SYNTAX),
    ("chat", chat([{"text": "x"}]), SYNTAX),
    ("chat", chat([{"image_url": PICTURE}]), SYNTAX),
    ("chat", chat([{**part("text", "x"), "image_url": PICTURE}]), SYNTAX),
    ("chat", chat([part("text", 3)]), PARAMETER),
    ("chat", chat([part("video_url", {"url": "https://a/b"})]), PARAMETER),
    ("chat", chat([part("image_embeds", "gASV")]), PARAMETER),
    ("chat", chat([part("file", {"file_id": "a"})]), PARAMETER),
    ("chat", chat([part("input_audio", {"data": "UklG"})]), PARAMETER),
    ("chat", chat([part("input_audio", {"data": "UklG", "format": "wav", "url": "x"})]), PARAMETER),
    ("chat", {**HELLO, "tools": [{"type": "web_search"}]}, VALUE),
    ("chat", {**HELLO, "tools": [{"type": "mcp", "server_url": "https://a"}]}, VALUE),
    ("chat", {**HELLO, "tools": {}}, VALUE),
    ("chat", {**HELLO, "web_search_options": {}}, PARAMETER),
    ("chat", {**HELLO, "prompt": "x"}, PARAMETER),
    ("chat", {**HELLO, "best_of": 3}, PARAMETER),
    ("chat", {**HELLO, "service_tier": "priority"}, PARAMETER),
    ("chat", {**HELLO, "n": 0}, VALUE),
    ("chat", {**HELLO, "n": 1.0}, VALUE),
    ("chat", {**HELLO, "n": True}, VALUE),
    ("chat", {**HELLO, "n": "2"}, VALUE),
    ("chat", {**HELLO, "n": 10**20}, VALUE),
    ("chat", {**HELLO, "max_tokens": -1}, VALUE),
    ("chat", {**HELLO, "stream": 1}, VALUE),
    ("chat", {**HELLO, "stream": "true"}, VALUE),
    ("chat", {**HELLO, "stream_options": {"continuous_usage_stats": True}}, VALUE),
    ("chat", {**HELLO, "stream_options": {"include_usage": 1}}, VALUE),
    ("chat", {**HELLO, "temperature": "hot"}, VALUE),
    ("chat", {**HELLO, "temperature": True}, VALUE),
    ("chat", {**HELLO, "stop": [1]}, VALUE),
    ("chat", {**HELLO, "logit_bias": {"1": "x"}}, VALUE),
    ("chat", {**HELLO, "metadata": {"usage": {"total_tokens": 1}}}, VALUE),
    ("chat", {**HELLO, "model": ""}, SYNTAX),
    ("chat", {**HELLO, "model": "a\nb"}, SYNTAX),
    ("chat", {**HELLO, "model": 3}, VALUE),
    ("completions", {"model": "m"}, SYNTAX),
    ("completions", {"prompt": []}, SYNTAX),
    ("completions", {"prompt": {}}, SYNTAX),
    ("completions", {"prompt": [[]]}, VALUE),
    ("completions", {"prompt": ["a", 1]}, SHAPE),
    ("completions", {"prompt": [1, [2]]}, SHAPE),
    ("completions", {"prompt": [1.5]}, SHAPE),
    ("completions", {"prompt": [True]}, SHAPE),
    ("completions", {"prompt": [[1, True]]}, VALUE),
    ("completions", {"prompt": [-1]}, VALUE),
    ("completions", {"prompt": [2**31]}, VALUE),
    ("completions", {"prompt": "a", "messages": []}, PARAMETER),
    ("embeddings", {"input": [{"image": PICTURE}]}, SHAPE),
    ("embeddings", {"input": [["a"]]}, VALUE),
    ("embeddings", {"input": "a", "n": 3}, PARAMETER),
    ("embeddings", {"input": "a", "encoding_format": "pickle"}, VALUE),
    ("embeddings", {"input": "a", "encoding_format": []}, VALUE),
    ("embeddings", {"input": "a", "dimensions": 0}, VALUE),
]


def test_what_is_not_of_the_api_is_refused():
    told = [(call, document, refused(call, document)) for call, document, _ in WRONG]
    assert told == WRONG
    assert len(told) > 60


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b'{"messages":[{"role":"user","content":"a"}],"n":1,"\\u006e":9}', DUPLICATE_KEY),
        (b'{"messages":[{"role":"user","content":"a","content":"b"}]}', DUPLICATE_KEY),
        (b'{"messages":[{"role":"user","content":"\\ud800"}]}', SYNTAX),
        (b"\xef\xbb\xbf{}", SYNTAX),
        (b'{"messages":' + b"[" * 90 + b"]" * 90 + b"}", SYNTAX),
        (b'{"messages":' + b"[" * 90_000 + b"]" * 90_000 + b"}", SYNTAX),
        (b'{"input":[' + b"{}," * 200_000 + b"{}]}", SYNTAX),
        (b'{"input":[' + b'"",' * 200_000 + b'""]}', SYNTAX),
    ],
)
def test_what_readers_differ_in_or_choke_on_is_refused(body, rule):
    assert refused("chat", body) is rule


@pytest.mark.parametrize(
    "media",
    [b"text/plain", b"application/x-www-form-urlencoded", b"application/json; charset=latin-1"],
)
def test_other_media_types_are_refused(media):
    assert refused("chat", HELLO, head={b"content-type": media}) is MEDIA_TYPE


def test_images_are_embedded_or_the_operator_lets_the_server_fetch():
    def ask(url):
        return chat([part("image_url", {"url": url})])

    remote = ("http://169.254.169.254/latest", "https://example.org/a.png")
    never = ("file:///etc/passwd", "HTTP://a/b", "data:text/html;base64,AA", "//a/b", "ftp://a", "",
             "https://a b", "https://", " data:image/png;base64,A")  # fmt: skip
    for url in (*remote, *never):
        assert refused("chat", ask(url)) is PARAMETER, url
    for url in remote:
        forwarded("chat", ask(url), remote_images=True)
    for url in never:
        assert refused("chat", ask(url), remote_images=True) is PARAMETER, url
    forwarded("chat", ask(PICTURE))


def test_models_can_be_named():
    forwarded("chat", HELLO, models=("m", "n"))
    assert refused("chat", HELLO, models=("n",)) is PARAMETER
    assert refused("chat", {"messages": HELLO["messages"]}, models=("m",)) is PARAMETER
    forwarded("chat", {"messages": HELLO["messages"]})


# How much it is.


@pytest.mark.parametrize(
    ("call", "document", "items"),
    [
        ("chat", HELLO, 1),
        ("chat", {**HELLO, "n": 7}, 7),
        ("completions", {"prompt": "abc"}, 1),
        ("completions", {"prompt": ["a", "b", "c"]}, 3),
        ("completions", {"prompt": [1, 2, 3]}, 1),
        ("completions", {"prompt": [[1], [2, 3]]}, 2),
        ("completions", {"prompt": ["a", "b"], "n": 2, "best_of": 5}, 10),
        ("completions", {"prompt": ["a", "b"], "n": 5, "best_of": 2}, 10),
        ("embeddings", {"input": ["a", "b", "c"]}, 3),
        ("embeddings", {"input": [[1], [2]]}, 2),
        ("embeddings", {"input": [1, 2]}, 1),
    ],
)
def test_lists_and_choices_are_items(call, document, items):
    assert units(call, document, "items") == items
    assert units(call, document, "requests") == 1
    assert refused(call, document, max_rows=items - 1) is ROWS_PER_REQUEST
    read(call, document, max_rows=items)


@pytest.mark.parametrize(
    ("call", "document", "characters"),
    [
        ("chat", HELLO, len("userHello")),
        ("chat", {**HELLO, "n": 3}, 3 * len("userHello")),
        ("chat", chat([part("text", "abc")]), len("usertextabc")),
        ("chat", chat([part("image_url", {"url": PICTURE})]), len("userimage_url") + len(PICTURE)),
        ("chat", {**HELLO, "tools": [{"type": "function", "function": {"description": "x" * 50}}]},
         len("userHello") + len('[{"type":"function","function":{"description":""}}]') + 50),
        ("chat", {"messages": [{"role": "a", "tool_calls": [call({"é" * 9: [1.5] * 9})]}]},
         len("a") + len(json.dumps([call({"é" * 9: [1.5] * 9})], separators=(",", ":"))) - 45),
        ("chat", {**HELLO, "prediction": {"content": [1, 22, 333]}},
         len("userHello") + len('{"content":[1,22,333]}')),
        ("chat", {"messages": [{"role": "a", "annotations": [{"b" * 70: 1}]}]},
         len("a") + len('[{"":1}]') + 70),
        ("completions", {"prompt": ["abc", "é"], "suffix": "zz"}, 6),
        ("completions", {"prompt": [1, 2, 3]}, 12),
        ("embeddings", {"input": ["abc", "de"]}, 5),
        ("embeddings", {"input": ""}, 1),
    ],
)  # fmt: skip
def test_characters_are_those_of_every_text(call, document, characters):
    assert units(call, document, "characters") == characters
    if characters > 1 and "n" not in document and "prompt" not in document:
        assert refused(call, document, max_characters=characters - 1) is ROWS_PER_REQUEST
        read(call, document, max_characters=characters)


def test_before_tokens_are_told_what_is_sure_is_taken():
    assert units("chat", chat("x" * 796), "tokens") == 100
    assert units("chat", {**HELLO, "n": 9}, "tokens") == 9
    assert units("completions", {"prompt": [[1] * 70, [2] * 30]}, "tokens") == 100
    _, request = read("chat", chat("x" * 796), unit="tokens")
    assert request.meter.units() == 200  # an estimate, should no answer come
    picture = chat([part("image_url", {"url": "data:image/png;base64," + "A" * 100_000})])
    assert units("chat", picture, "tokens") == 1
    assert read("chat", picture, unit="tokens")[1].meter.units() == 512 + 4
    for unit in ("requests", "items", "characters"):
        assert read("chat", HELLO, unit=unit)[1].meter is None


def test_tokens_asked_for_are_limited_over_all_answers():
    for fields in ({"max_tokens": 100}, {"max_completion_tokens": 50, "n": 2}):
        read("chat", {**HELLO, **fields}, max_tokens=100)
    for fields in (
        {},
        {"max_tokens": 101},
        {"max_tokens": 0},
        {"max_tokens": 0, "max_completion_tokens": 1},
        {"max_completion_tokens": 51, "n": 2},
        {"max_tokens": 1, "max_completion_tokens": 101},
    ):
        assert refused("chat", {**HELLO, **fields}, max_tokens=100) is VALUE
    document = {"prompt": ["a", "b"], "max_tokens": 26, "best_of": 2}
    assert refused("completions", document, max_tokens=100) is VALUE
    read("embeddings", {"input": "a"}, max_tokens=1)


def test_a_stream_is_asked_for_its_usage_only_where_tokens_are_charged():
    document = {**HELLO, "stream": True, "stream_options": {"include_obfuscation": False}}
    body = json.loads(forwarded("chat", document, unit="tokens", ask_usage=True))
    assert body["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    for keywords in ({"unit": "tokens"}, {"ask_usage": True}):
        assert json.loads(forwarded("chat", document, **keywords)) == document
    body = forwarded("chat", HELLO, unit="tokens", ask_usage=True)
    assert json.loads(body) == HELLO


# The rest of the codec.


def test_what_the_answers_hold():
    assert read("chat", HELLO)[1].answer is Holds.TEXT
    assert read("completions", {"prompt": "a"})[1].answer is Holds.TEXT
    assert read("embeddings", {"input": "a"})[1].answer is Holds.ROWS


def test_texts_to_embed_are_a_tensor():
    _, request = read("embeddings", {"input": ["a", "é"]}, unit="items")
    assert request.tensors["input"].tolist() == [b"a", "é".encode()]
    assert read("embeddings", {"input": [1, 2]})[1].tensors == {}


def test_a_width_holds_for_embeddings_alone():
    wide = Contract(width=8)
    with pytest.raises(ValueError, match="embeddings"):
        OpenAI("/v1", wide)
    with pytest.raises(ValueError, match="embeddings"):
        OpenAI("/v1", None).with_contract(wide)
    codec = OpenAI("/v1", wide, calls=("embeddings",))
    route = codec.route("POST", PATHS["embeddings"])
    codec.decode_request(JSON, b'{"input":"a","dimensions":8}', route)
    with pytest.raises(Refusal, match="8 dimensions"):
        codec.decode_request(JSON, b'{"input":"a","dimensions":7}', route)


def test_it_learns_that_the_server_is_there():
    codec = OpenAI("/v1", None, calls=("embeddings",))
    assert codec.learn(b'{"object":"list","data":[]}', 8) == Contract(width=8)
    assert codec.learn(b'{"data":[{"id":"m"}]}', None) == Contract()
    for body in (b"[]", b"{}", b"x", b'{"data":3}', b'{"data":[],"data":[]}'):
        with pytest.raises(ContractError):
            codec.learn(body, None)


def test_texts_are_not_changed():
    codec, request = read("embeddings", {"input": "a"})
    assert codec.batch(request) == 1
    with pytest.raises(ValueError, match="fit"):
        codec.with_rows(request, np.zeros((1, 0), np.float32), np.zeros(1, np.int64))


@pytest.mark.parametrize(
    ("rule", "kind", "code", "headers"),
    [
        (OUTLIER, "permission_denied", "permission_denied", ((b"x-should-retry", b"false"),)),
        (CLIENT_RATE, "rate_limit_error", "rate_limit_exceeded", ()),
        (SYNTAX, "invalid_request_error", None, ()),
        (INTERNAL, "server_error", None, ()),
    ],
)
def test_refusals_are_errors_of_the_api(rule, kind, code, headers):
    refused = OpenAI("/v1", Contract()).refuse(Refusal(rule, "why"))
    assert refused.content_type == b"application/json"
    message = f"{rule.message}: why" if rule.explains else rule.message
    error = {"message": message, "type": kind, "param": None, "code": code}
    assert json.loads(refused.body) == {"error": error}
    assert refused.headers == headers
