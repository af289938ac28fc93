"""Envoy's configuration as it is shipped in deploy/envoy, at other addresses."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import yaml

from loadtest.process import Address

SHIPPED: Final = Path(__file__).resolve().parent.parent / "deploy" / "envoy" / "envoy.yaml"


def socket_address(address: Address) -> dict[str, Any]:
    """An address as Envoy's configuration writes it."""
    host, port = address
    return {"socket_address": {"address": host, "port_value": port}}


def endpoint(address: Address, **keys: Any) -> dict[str, Any]:
    """One of a cluster's ``lb_endpoints``."""
    return {"endpoint": {"address": socket_address(address), **keys}}


def shipped(
    listen: Address, admin: Address, model: Address, processors: Iterable[tuple[Address, int]]
) -> dict[str, Any]:
    """deploy/envoy/envoy.yaml with nothing changed but the addresses.

    Args:
        listen: where clients connect.
        admin: Envoy's own admin listener.
        model: the model server.
        processors: of each ``bartizan ext-proc``, where it serves and its admin listener's port.

    Raises:
        OSError: if the file is not there: it belongs to the repository, not to the package.
    """
    settings: dict[str, Any] = yaml.safe_load(SHIPPED.read_text(encoding="utf-8"))
    settings["admin"]["address"] = socket_address(admin)
    [listener] = settings["static_resources"]["listeners"]
    listener["address"] = socket_address(listen)
    places = {
        "model": [endpoint(model)],
        "bartizan": [
            endpoint(address, health_check_config={"port_value": port})
            for address, port in processors
        ],
    }
    for cluster in settings["static_resources"]["clusters"]:
        cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": places[cluster["name"]]}]
    return settings
