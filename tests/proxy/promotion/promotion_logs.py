"""Audit logs of an endpoint that only monitored, as a gateway would have written them."""

from datetime import UTC, datetime, timedelta

import orjson

from proxy.settings.basis import verdicts
from proxy.settings.load import digest, load
from proxy.telemetry.audit_chain import Link
from proxy.telemetry.audit_chain import digest as hash_of
from proxy.telemetry.audit_file import AuditFile

NOW = datetime(2026, 5, 10, 12, tzinfo=UTC)
CLIENTS = [f"{number:032x}" for number in range(1, 41)]

PLAIN = """\
# The whole of it.
client:
  secret: "a secret of pseudonyms"
audit:
  path: audit.jsonl
endpoints:
  - name: digits   # the only one
    match: /v2/models/digits
    upstream: http://127.0.0.1:9000
    mode: monitor # for now
    contract: {inputs: [{name: input, datatype: FP32, shape: [-1, 4]}]}
"""


def configuration(folder, text=PLAIN):
    path = folder / "bartizan.yaml"
    path.write_bytes(text.encode())
    return path


class Log:
    """One chain, written record by record.

    Args:
        settings: under which the exchanges were decided; changed by ``configured``.
    """

    def __init__(self, path, settings, *, bundle="", workers=0):
        self.path = path
        self._file = AuditFile(path, keep=5)
        self._link, self._lines = Link(), []
        self._bundle = bundle
        self.add("started", NOW - timedelta(days=9), workers=workers)
        self.configured(settings, NOW - timedelta(days=9))

    def configured(self, settings, at, **more):
        self._configuration = digest(settings)
        told = {"bundles": {}, "verdicts": verdicts(settings), **more}
        self.add("configured", at, configuration=self._configuration, **told)

    def add(self, kind, at, **fields):
        values = {"seq": self._link.seq + 1, "prev": self._link.hash, "type": kind}
        time = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        line = orjson.dumps({**values, "time": time, **fields})
        self._link = Link(values["seq"], hash_of(line))
        self._lines.append(line + b"\n")

    def exchange(self, at, client, *rules, endpoint="digits", **fields):
        told = {
            "endpoint": endpoint,
            "bundle": self._bundle[:16],
            "configuration": self._configuration[:16],
            "action": "block" if rules else "allow",
            "enforced": "allow",
            "would_block": bool(rules),
            "reasons": [{"rule": rule, "atlas": [], "detail": ""} for rule in rules],
            "id": f"{self.path.parent.name}-{self._link.seq}",
            "client": client,
            "status": 200,
            "rows": 1,
        }
        self.add("exchange", at, **{**told, **fields})

    def honest(self, count, *, hours=48, clients=20, **fields):
        """So many exchanges that end now, spread evenly."""
        for number in range(count):
            at = NOW - timedelta(hours=hours * (1 - (number + 0.5) / count))
            self.exchange(at, CLIENTS[number % clients], **fields)

    def close(self):
        self._file.write(b"".join(self._lines), self._link)
        self._file.close()


def log_of(configuration, count=500, *, bundle="", **fields):
    """A closed log beside the configuration, of honest exchanges only."""
    log = Log(configuration.with_name("audit.jsonl"), load(configuration), bundle=bundle)
    log.honest(count, **fields)
    log.close()
    return log
