"""What Envoy is told: one answer for each of its messages.

Source: ``external_processor.proto`` (https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/
ext_proc/v3/external_processor.proto). Envoy 1.40 takes values of headers from ``raw_value`` only,
and appends where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    BodyMutation,
    BodyResponse,
    CommonResponse,
    GrpcStatus,
    HeaderMutation,
    HeadersResponse,
    ImmediateResponse,
    ProcessingResponse,
    TrailersResponse,
)
from envoy.type.v3.http_status_pb2 import HttpStatus

from proxy.ext_proc.heads import lines_of
from proxy.http.messages import Reply

REQUEST_HEADERS: Final = "request_headers"
REQUEST_BODY: Final = "request_body"
REQUEST_TRAILERS: Final = "request_trailers"
RESPONSE_HEADERS: Final = "response_headers"
RESPONSE_BODY: Final = "response_body"
RESPONSE_TRAILERS: Final = "response_trailers"

NOWHERE: Final = b"/.bartizan/not-judged"
"""Where a request goes of which only the head was seen. Envoy sends one on that has trailers and no
body, without asking again, where the filter does not send request trailers."""

_OVERWRITE: Final = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
_REPLACE: Final = CommonResponse.CONTINUE_AND_REPLACE
_UNIMPLEMENTED: Final = 12  # what gRPC's clients make of any answer that is not gRPC

_UNREAD: Final = ProcessingMode(
    request_header_mode=ProcessingMode.SEND,
    request_body_mode=ProcessingMode.BUFFERED,
    response_header_mode=ProcessingMode.SEND,
    response_body_mode=ProcessingMode.NONE,
)
_WATCHED: Final = ProcessingMode(
    request_header_mode=ProcessingMode.SEND,
    request_body_mode=ProcessingMode.BUFFERED,
    response_header_mode=ProcessingMode.SEND,
    response_body_mode=ProcessingMode.STREAMED,
)


def wait(removed: Sequence[str]) -> bytes:
    """The head of a request was seen, and its body is wanted: until that was judged, the request
    goes nowhere, and has nothing to say."""
    changes = HeaderMutation(set_headers=[_header(":path", NOWHERE)], remove_headers=removed)
    return _common(REQUEST_HEADERS, CommonResponse(header_mutation=changes))


def onward(
    pending: str,
    target: bytes,
    lines: bytes,
    body: bytes,
    *,
    removed: Iterable[str] = (),
    method: bytes | None = None,
) -> bytes:
    """The request goes to the model server, as it is said here.

    Args:
        pending: the kind of message that is answered.
        lines: header lines, each ended by CRLF.
        method: None: the one that it has.
    """
    headers = [_header(":path", target)]
    if method is not None:
        headers.append(_header(":method", method))
    headers += [_header(name, value) for name, value in lines_of(lines)]
    forgotten = list(removed)
    if body:
        headers.append(_header("content-length", b"%d" % len(body)))
        mutation: BodyMutation | None = BodyMutation(body=body)
    else:
        forgotten.append("content-length")
        mutation = BodyMutation(clear_body=True) if pending == REQUEST_BODY else None
    return _common(
        pending,
        CommonResponse(
            status=_REPLACE if body and pending == REQUEST_HEADERS else CommonResponse.CONTINUE,
            header_mutation=HeaderMutation(set_headers=headers, remove_headers=forgotten),
            body_mutation=mutation,
        ),
    )


def unread(lines: bytes, removed: Iterable[str]) -> bytes:
    """The answer passes, and nothing needs its body."""
    return _common(RESPONSE_HEADERS, _changed(lines, removed), _UNREAD)


def watched(lines: bytes, removed: Iterable[str]) -> bytes:
    """The answer passes, and its body is to be seen as it does."""
    return _common(RESPONSE_HEADERS, _changed(lines, removed), _WATCHED)


def read(pending: str) -> bytes:
    """Nothing is changed by this message: what it is about is told with the next one, or was."""
    return _PLAIN[pending]


def passed(pending: str, lines: bytes, removed: Iterable[str]) -> bytes:
    """The answer passes, and it was read."""
    if pending == RESPONSE_TRAILERS:  # the head is gone
        return read(pending)
    return _common(pending, _changed(lines, removed))


def replaced(pending: str, lines: bytes, body: bytes, removed: Iterable[str]) -> bytes:
    """The answer has this body in place of its own.

    Raises:
        ValueError: if it is too late for that.
    """
    if pending == RESPONSE_TRAILERS:
        raise ValueError("an answer with trailers and no body cannot be replaced")
    common = _changed(lines + b"content-length: %d\r\n" % len(body), removed)
    common.body_mutation.body = body
    if pending == RESPONSE_HEADERS:
        common.status = _REPLACE
    return _common(pending, common)


def immediate(reply: Reply) -> bytes:
    """An answer of ours, in place of whatever was to come."""
    headers = [_header("content-type", reply.content_type)]
    headers += [_header(name.decode(), value) for name, value in reply.headers]
    answer = ImmediateResponse(
        status=HttpStatus(code=reply.status),
        headers=HeaderMutation(set_headers=headers),
        body=reply.body,
        grpc_status=GrpcStatus(status=_UNIMPLEMENTED),
        details="bartizan",
    )
    return _written(ProcessingResponse(immediate_response=answer))


def _changed(lines: bytes, removed: Iterable[str]) -> CommonResponse:
    headers = [_header(name, value) for name, value in lines_of(lines)]
    return CommonResponse(
        header_mutation=HeaderMutation(set_headers=headers, remove_headers=removed)
    )


def _header(name: str, value: bytes) -> HeaderValueOption:
    return HeaderValueOption(
        header=HeaderValue(key=name, raw_value=value), append_action=_OVERWRITE
    )


def _common(pending: str, common: CommonResponse, mode: ProcessingMode | None = None) -> bytes:
    kind: Any = HeadersResponse if pending.endswith("headers") else BodyResponse
    response: Any = {pending: kind(response=common)}
    return _written(ProcessingResponse(mode_override=mode, **response))


def _written(response: ProcessingResponse) -> bytes:
    data: bytes = response.SerializeToString()
    return data


_PLAIN: Final[dict[str, bytes]] = {
    RESPONSE_HEADERS: _common(RESPONSE_HEADERS, CommonResponse()),
    RESPONSE_BODY: _common(RESPONSE_BODY, CommonResponse()),
    RESPONSE_TRAILERS: _written(ProcessingResponse(response_trailers=TrailersResponse())),
}
