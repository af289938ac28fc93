"""Probes for protocols whose request is one JSON document that holds rows, whatever holds them."""

import gzip

from real_bytes import JSON, A, B, Probe, dumps

NAN = [float("nan"), *A[1:]]
ROWS = 5000


def json_probes(document, twice):
    """The probes that every such protocol has.

    Args:
        document: rows → the document.
        twice: the body of two documents in one, the key that holds the rows named twice.
    """
    plain = dumps(document([A]))
    return [
        Probe("duplicate JSON key", twice, readings=(("first", [A]), ("last", [B]))),
        Probe(
            "numeric strings",
            dumps(document([[str(value) for value in A]])),
            readings=(("coerces", [A]),),
        ),
        Probe("NaN", dumps(document([NAN]))),
        Probe("byte order mark", b"\xef\xbb\xbf" + plain),
        Probe("UTF-16", plain.decode().encode("utf-16")),
        Probe("gzip", gzip.compress(plain), (JSON, ("Content-Encoding", "gzip"))),
        Probe("content type absent", plain, ()),
        Probe(
            f"{ROWS} rows in a request",
            dumps(document([A] * ROWS)),
            readings=(("answers", [A] * ROWS),),
        ),
    ]


EVERYWHERE = (
    ("duplicate JSON key", "BZ-121"),
    ("numeric strings", "BZ-200"),  # strings are no features
    ("NaN", "BZ-120"),
    ("byte order mark", "BZ-120"),
    ("UTF-16", "BZ-120"),
    ("gzip", "answers"),
    ("content type absent", "answers"),
    (f"{ROWS} rows in a request", "BZ-600"),
)


def joined(first, second):
    """Two documents of one key each as one, the key named twice where they have the same."""
    return first[:-1] + b"," + second[1:]
