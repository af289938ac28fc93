"""A form with one file in it, read strictly (RFC 7578, RFC 2046 section 5.1.1)."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final, NamedTuple

from proxy.rules import DUPLICATE_KEY, MEDIA_TYPE, SYNTAX, Refusal

_BOUNDARY: Final = rb"[0-9A-Za-z'()+_,./:=?-]{1,70}"
_TYPE: Final = re.compile(
    rb'(?i:multipart/form-data)[ \t]*;[ \t]*(?i:boundary)=(?:(%b)|"(%b)")' % (_BOUNDARY, _BOUNDARY)
)
# A file's name is read by nobody: it is dropped, in whichever spelling it comes.
_DISPOSITION: Final = re.compile(
    rb'form-data; name="(?P<name>[A-Za-z0-9_-]{1,64})"'
    rb'(?:; filename="[^"\\\r\n]{0,1024}")?(?:; filename\*=[^"\\\r\n;]{0,1024})?'
)
_MOST_HEADER: Final = 4096


class Part(NamedTuple):
    """The only part of a form.

    Attributes:
        name: of the field.
        media: its Content-Type, or None.
    """

    name: bytes
    media: bytes | None
    data: bytes


def boundary_of(media: bytes | None) -> bytes | None:
    """The boundary that a Content-Type names; None if it is not that of a form with files.

    Raises:
        Refusal: MEDIA_TYPE if it is one, and not plainly so.
    """
    if media is None or not media.lower().startswith(b"multipart/"):
        return None
    match = _TYPE.fullmatch(media)
    if match is None:
        raise Refusal(MEDIA_TYPE, "use multipart/form-data with a boundary, and nothing else")
    boundary: bytes = match[1] or match[2]
    return boundary


def read_part(body: bytes, boundary: bytes) -> Part:
    """The part of a form that has just one.

    Raises:
        Refusal: SYNTAX or DUPLICATE_KEY.
    """
    opening, closing = b"--%b\r\n" % boundary, b"\r\n--%b--" % boundary
    body = body.removesuffix(b"\r\n")
    end = body.find(b"\r\n\r\n", 0, len(opening) + _MOST_HEADER)
    if end < 0 or not (body.startswith(opening) and body.endswith(closing)):
        raise Refusal(SYNTAX, "not a form of one part")
    stop = len(body) - len(closing)
    # What else begins a boundary ends the part for some readers.
    if stop < end + 4 or body.find(b"\n--%b" % boundary, end) not in (-1, stop + 1):
        raise Refusal(SYNTAX, "a form of more than one part, or of none")
    headers: dict[bytes, bytes] = {}
    for line in body[len(opening) : end].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon or name.lower() not in (b"content-disposition", b"content-type"):
            raise Refusal(SYNTAX, "a part of a form with an unknown header")
        if name.lower() in headers:
            raise Refusal(DUPLICATE_KEY, "a header of a part")
        headers[name.lower()] = value.strip(b" \t")
    match = _DISPOSITION.fullmatch(headers.get(b"content-disposition", b""))
    if match is None:
        raise Refusal(SYNTAX, "a part of a form without a plain name")
    return Part(match["name"], headers.get(b"content-type"), body[end + 4 : stop])


def write_part(part: Part) -> tuple[bytes, bytes]:
    """Content-Type and body of a form with one file, always the same for the same part.

    Args:
        part: with its ``media``.
    """
    seed = part.data
    while (boundary := sha256(seed).hexdigest()[:32].encode()) in part.data:
        seed = boundary
    head = b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="%b"\r\n' % (
        boundary,
        part.name,
        part.name,
    )
    body = b"%bContent-Type: %b\r\n\r\n%b\r\n--%b--\r\n" % (
        head,
        part.media or b"application/octet-stream",
        part.data,
        boundary,
    )
    return b"multipart/form-data; boundary=" + boundary, body
