"""Real Redis servers for tests; those of the load tests."""

from loadtest.redis_servers import (
    ANY,
    BINARIES,
    RedisCluster,
    RedisServer,
    Sentinel,
    accepts,
    server_port,
)

__all__ = [
    "ANY",
    "BINARIES",
    "RedisCluster",
    "RedisServer",
    "Sentinel",
    "accepts",
    "server_port",
]
