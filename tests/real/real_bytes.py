"""Bytes that readers take differently: what a real server makes of them, and what the firewall.

A probe is one request. What a server makes of it is told in a word: its status, or which of the
numbers in the request it answered to.
"""

import json
from dataclasses import dataclass

import numpy as np
from programs.linear import probabilities

from loadtest.wire import Session, render_request
from proxy.rules import RULES

A = [0.5, -0.25, 0.125, 0.75]
B = [-0.5, 0.25, 0.0, 0.5]
JSON = ("Content-Type", "application/json")


@dataclass(frozen=True)
class Probe:
    """One request.

    Attributes:
        name: a row of the table.
        body: its bytes.
        headers: beside the length.
        model: whose path it is sent to.
        readings: what an answer may show: a word, and the rows that it would be the answer to.
    """

    name: str
    body: bytes
    headers: tuple = (JSON,)
    model: str = "linear"
    readings: tuple = (("answers", (A,)),)

    def send(self, port, target):
        """The answer, or None where the connection ends without one."""
        request = render_request("POST", target, "localhost", self.body, self.headers)
        with Session(("127.0.0.1", port), timeout=30) as session:
            try:
                return session.exchange(request)
            except OSError:
                return None

    def read(self, answer, extract):
        """What an answer shows, in a word."""
        if answer is None:
            return "ends the connection"
        if answer.status != 200:
            return str(answer.status)
        try:
            found = np.array(extract(answer.body), dtype=float)
        except (KeyError, ValueError, TypeError, IndexError):
            return "200, and no answer"
        for word, rows in self.readings:
            expected = probabilities(rows)
            if found.size == expected.size and np.allclose(found.ravel(), expected.ravel()):
                return word
        return "NaN" if np.isnan(found).all() else "answers to something else"


def refused_by(answer):
    """The rule that refused, told by its words: whatever the protocol's shape, they are in it. None
    if the answer is the server's own.
    """
    said = answer.body.decode()
    for rule in RULES.values():
        if rule.status == answer.status and rule.message in said:
            return rule.id
    return None


class Bytes:
    """Sends probes both ways. A subclass parametrizes a test over its own.

    Attributes:
        protocol: as the table names it.
        extract: the probabilities in an answer's body.
        DIRECT: what the server makes of each probe by itself.
        EVERYWHERE: the rule that refuses it, or what the server makes of what the firewall
            forwards; ``THROUGH``: where it is otherwise with this server.
    """

    protocol = "v2"
    DIRECT: tuple[tuple[str, str], ...]
    EVERYWHERE: tuple[tuple[str, str], ...]
    THROUGH: tuple[tuple[str, str], ...] = ()

    def compare(self, guarded, observe, probe, target, through_target=None):
        """One probe, past the firewall and through it."""
        past = probe.send(guarded.port(through=False), target)
        direct = probe.read(past, self.extract)
        answer = probe.send(guarded.port(through=True), through_target or target)
        through = refused_by(answer) or probe.read(answer, self.extract)
        observe(
            "bytes",
            f"{self.protocol} {probe.name} {guarded.server.environment}",
            protocol=self.protocol,
            probe=probe.name,
            server=f"{guarded.server.shown} {guarded.server.version}",
            direct=direct,
            through=through,
        )
        expected = dict(self.DIRECT)[probe.name], dict(self.EVERYWHERE + self.THROUGH)[probe.name]
        assert (direct, through) == expected, f"{(direct, through)}, not {expected}"


def dumps(document):
    """JSON as Python writes it, NaN included."""
    return json.dumps(document).encode()
