"""Audit logs for tests: made, filled and read back."""

import asyncio
import time

from proxy.telemetry.audit import AuditLog, AuditOptions
from proxy.telemetry.audit_chain import rotated
from proxy.telemetry.record import Record


def record(number=0, **changes):
    values = {"endpoint": "digits", "status": 200, "rows": 1, "finished": 2.0, **changes}
    return Record(f"id-{number}", 1.0, 1.0, **values)


def open_log(path, file=None, **options):
    more = {} if file is None else {"file": file}
    return AuditLog(path, AuditOptions(**options), clock=time.monotonic, wall=time.time, **more)


def fill(path, count, **options):
    """A closed log of ``count`` exchanges."""

    async def run():
        log = open_log(path, **options)
        for number in range(count):
            assert log.append(record(number)) is not None
            if number % 7 == 6:
                await asyncio.sleep(0)
                log._flush()
        await log.close()

    asyncio.run(run())


def lines(path):
    """Every line of the log, oldest first, without line feeds."""
    files = [*rotated(path).values(), path]
    return [line for file in files for line in file.read_bytes().splitlines()]
