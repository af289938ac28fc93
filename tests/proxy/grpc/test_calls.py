from __future__ import annotations

import grpc
import pytest
from grpc import StatusCode
from grpc_messages import MESSAGES

from proxy.grpc import calls, metadata
from proxy.grpc.answer import Answer
from proxy.grpc.exchange import Exchange, Outcome
from proxy.grpc.listener import _address
from proxy.grpc.status import HTTP, code_of
from proxy.http.messages import Head, Peer, Reply
from proxy.protocols import grpc_v2_paths
from proxy.rules import FRAMING, RULES, SYNTAX, Refusal


def test_the_service_is_that_of_the_codec():
    assert calls.SERVICE == grpc_v2_paths.SERVICE


def test_targets_and_back():
    message = b"\x0a\x01m\x12\x012"
    target = calls.target_of(f"{calls.SERVICE}/ModelReady", message)
    assert target == f"{calls.SERVICE}/m/2/ModelReady"
    assert calls.method_of(target) == (f"{calls.SERVICE}/ModelReady", message)
    assert calls.method_of(f"{calls.SERVICE}/ServerLive") == (f"{calls.SERVICE}/ServerLive", b"")


def test_a_name_that_is_there_twice_is_no_name():
    for odd in (b"\x0a\x01m\x0a\x01n", b"\x0a\x01m\x0a\x00", b"\x0a\x00\x0a\x01m"):
        with pytest.raises(Refusal) as caught:
            calls.target_of(f"{calls.SERVICE}/ModelInfer", odd)
        assert caught.value.rule is SYNTAX


def test_every_rule_has_a_code():
    known = {rule.id: code_of(rule.status) for rule in RULES.values()}
    assert set(known.values()) <= set(StatusCode)
    codes = {rule.status: known[rule.id] for rule in RULES.values()}
    assert codes[403] is StatusCode.PERMISSION_DENIED
    assert codes[429] is StatusCode.RESOURCE_EXHAUSTED
    # A client that repeats what is unavailable must not repeat what was refused.
    assert {status for status, code in codes.items() if code is StatusCode.UNAVAILABLE} == {
        502,
        503,
    }
    assert StatusCode.INTERNAL not in {codes[status] for status in codes if status != 417}
    assert set(HTTP) == set(StatusCode)


def test_deadlines_in_every_unit():
    def seconds(value):
        return metadata.metadata_of(b"grpc-timeout: %b\r\n" % value)[1]

    read = [seconds(value) for value in (b"1H", b"2M", b"3S", b"4m", b"5u", b"6n")]
    assert read == pytest.approx([3600, 120, 3, 0.004, 5e-6, 6e-9])
    assert metadata.timeout_line(0.25) == b"250m"
    assert metadata.timeout_line(-1) == b"1m"
    assert len(metadata.timeout_line(1e12)) == 9
    assert metadata.metadata_of(b"") == ((), None)


@pytest.mark.parametrize("value", ["a\r\nx: y", "a\nb", "\0", "é", "\x7f"])
def test_metadata_that_would_be_more_than_one_line(value):
    with pytest.raises(Refusal) as caught:
        metadata.headers_of([("authorization", value)], frozenset())
    assert caught.value.rule is FRAMING


def test_a_wait_is_told_in_both_ways():
    reply = Reply(429, b"rate limit exceeded", b"text/plain", ((b"retry-after", b"7"),))
    outcome = Outcome.of(reply)
    told = dict(outcome.trailing)
    assert told["retry-after"] == "7"
    status = MESSAGES["Status"].FromString(told["grpc-status-details-bin"])
    assert (status.code, status.message) == (8, "rate limit exceeded")
    (detail,) = status.details
    assert detail.type_url == "type.googleapis.com/google.rpc.RetryInfo"
    assert MESSAGES["RetryInfo"].FromString(detail.value).retry_delay.seconds == 7


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:50051", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:50051", "2001:db8::1"),
        ("ipv6:[::1]:1", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::1"),
        ("ipv6:%5B::ffff:192.0.2.1%5D:1", "192.0.2.1"),
        ("unix:", ""),
        ("unix:/run/x.sock", ""),
        ("", ""),
    ],
)
def test_addresses(peer, address):
    assert _address(peer) == address


def exchange():
    return Exchange(Head("RPC", "/", {}, True), b"", Peer(""), None, 0.0)


def answer(code=StatusCode.OK, message=b"answer"):
    return Answer(code, "words", message, (("a", "1"),), (("b", "2"),))


async def test_an_answer_is_passed_on_with_a_line_of_ours():
    one, seen = exchange(), []
    assert await one.relay(answer(), b"x-request-id: 1\r\n", seen.append) == 6
    assert one.outcome == Outcome(
        StatusCode.OK, "words", b"answer", (("a", "1"),), (("b", "2"), ("x-request-id", "1"))
    )
    assert (one.status, one.answered, seen) == (200, True, [b"answer"])
    with pytest.raises(RuntimeError):
        one.reply(Reply(403, b""))
    await one.drained()


def test_an_answer_is_replaced():
    one, upstream = exchange(), answer()
    assert one.replace(upstream, b"", b"other", b"x-request-id: 1\r\n") == 5
    assert one.outcome.message == b"other"
    assert one.outcome.trailing == (("b", "2"), ("x-request-id", "1"))
    assert upstream.buffered == 0


def test_grpc_is_bytes_in_bytes_out():
    """What the room relies on: gRPC hands over what nobody asked it to understand."""
    assert grpc.stream_unary_rpc_method_handler(None).request_deserializer is None
