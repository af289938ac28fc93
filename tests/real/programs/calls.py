"""What the drivers of real clients have in common: one JSON call a line in, one JSON answer out.

An exception is an answer too: its class, its words, and the status that it carries.
"""

import json
import sys


def describe(fault, status=None):
    """An exception as an answer."""
    kind = type(fault)
    return {
        "exception": f"{kind.__module__}.{kind.__qualname__}",
        "status": str(status) if status is not None else None,
        "message": str(fault),
    }


def answer_calls(call, status=lambda fault: None):
    """Answers until the input ends.

    Args:
        call: takes a call's fields as keywords, and returns what JSON can hold.
        status: the status that an exception of this client carries.
    """
    for line in sys.stdin:
        try:
            answer = {"result": call(**json.loads(line))}
        except Exception as fault:
            answer = describe(fault, status(fault))
        sys.__stdout__.write(json.dumps(answer) + "\n")
        sys.__stdout__.flush()
