"""The example of each protocol's page: its configuration loads, its honest request is read, and its
refusal is the one that the codec gives."""

import re
import shlex
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.build_codecs import Bounds, Spoken, codec, grpc_codec, grpc_match
from proxy.build_contracts import declared_contract
from proxy.protocols.contract import Contract
from proxy.rules import RULES, Refusal
from proxy.settings.load import load

PAGES = sorted(Path(__file__).resolve().parent.parent.joinpath("docs", "protocols").glob("*.md"))
HEADING = "## An example\n"
FILES = {"cat.gif": b"GIF89a"}


def example(page):
    """The section, up to the next heading."""
    text = page.read_text()
    assert text.count(HEADING) == 1
    return text.split(HEADING)[1].split("\n## ")[0]


def blocks(section, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.M | re.S)


def endpoint_of(section, folder):
    [text] = blocks(section, "yaml")
    file = folder / "bartizan.yaml"
    file.write_text(text)
    [endpoint] = load(file, environment={}).endpoints
    return endpoint


def asked(command):
    """Method, target, headers and body of a request by curl; None: of a file that is not here."""
    words = iter(
        shlex.split(
            re.sub(r"\$'(.*?)'", _unescaped, command.replace("\\\n", " ").removeprefix("$ curl"))
        )
    )
    method, url, headers, body = "POST", "", {}, b""
    for word in words:
        match word:
            case "-s":
                pass
            case "-w":
                next(words)
            case "--json":
                headers[b"content-type"], body = b"application/json", next(words).encode()
            case "--data-binary":
                body = next(words).encode()
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name.lower().encode()] = value.encode()
            case "-T":
                method, body = "PUT", FILES.get(next(words))
            case _:
                assert word.startswith("http://127.0.0.1:8080/")
                url = word
    return method, urlsplit(url).path, headers, body


def _unescaped(match):
    return shlex.quote(match[1].replace("\\n", "\n"))


def exchanges(section):
    """Of each request by curl: the request, the answer's body, and the words of its last line."""
    for block in blocks(section, "console"):
        command, answer = re.fullmatch(r"(\$ curl(?:.*\\\n)*.*\n)([\s\S]*)", block).groups()
        body, last = answer.splitlines()
        yield asked(command), body, last.split()


def ruled(section):
    """The rule that the section names."""
    [rule] = set(re.findall(r"BZ-\d{3}", section))
    return RULES[rule]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_example_of_a_page_is_so(page, tmp_path):
    section = example(page)
    endpoint, rule = endpoint_of(section, tmp_path), ruled(section)
    if page.stem == "grpc":
        check_grpc(section, endpoint, rule)
        return
    contract = declared_contract(endpoint, None) or Contract()
    one = codec(
        Spoken(endpoint.protocol, endpoint.match, endpoint.upstream_path), contract, Bounds()
    )
    (honest, _, said), (bad, body, told) = exchanges(section)
    assert said == ["200"]
    if honest[-1] is not None:
        assert read(one, *honest).n > 0
    with pytest.raises(Refusal) as caught:
        read(one, *bad)
    refused = one.refuse(caught.value)
    assert caught.value.rule is rule
    assert refused.body.decode() == body
    shown = [value.decode() for name, value in refused.headers if name == b"x-amzn-errortype"]
    assert told == [str(rule.status), *shown]


def read(one, method, target, headers, body):
    return one.decode_request(headers, body, one.route(method, target))


def check_grpc(section, endpoint, rule):
    [_, code, words] = blocks(section, "console")[0].splitlines()[1:]
    one = grpc_codec(grpc_match(endpoint.protocol, endpoint.match, None), None, Bounds())
    refusal = Refusal(rule, words.removeprefix(f"{rule.message}: "))
    assert one.refuse(refusal).body.decode() == words
    assert (code, rule.status) == ("StatusCode.INVALID_ARGUMENT", HTTPStatus.BAD_REQUEST)


def test_every_page_was_tried():
    assert len(PAGES) == 11
    assert sum(page.read_text().count(HEADING) for page in PAGES) == len(PAGES)
