"""A program to be killed: records exchanges, and prints the id of each that was released."""

import asyncio
import os
import sys
from pathlib import Path

from audit_logs import open_log, record


async def main(path, first):
    log = open_log(path, durability="released", rotate_bytes=20_000, keep=1000)

    async def client(number):
        while True:
            number += 8
            ticket = log.append(record(number))
            if ticket is not None and await log.released(ticket):
                os.write(1, b"id-%d\n" % number)

    await asyncio.gather(*[client(first + lane) for lane in range(8)])


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
