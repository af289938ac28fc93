"""What a reload cannot change, and how it is refused."""

from __future__ import annotations

from typing import Final

from proxy.settings.models import Settings
from proxy.settings.problems import SettingsError

_FIXED: Final = (
    "listen",
    "admin",
    "workers",
    "state",
    "sharing",
    "audit",
    "http",
    "log",
    "grpc",
    "ext_proc",
)


class ReloadRefused(Exception):  # noqa: N818 - nothing broke: the old configuration goes on
    """A configuration that only a restart can put in place: the message says what changed."""


def refuse_fixed(old: Settings, new: Settings) -> None:
    """Checks that ``new`` may replace ``old`` while requests are served.

    Raises:
        ReloadRefused: if something changed that a reload cannot change.
    """
    before, after = _fixed(old), _fixed(new)
    changed = [name for name, value in after.items() if value != before[name]]
    if changed:
        raise ReloadRefused(f"changes of {', '.join(changed)} need a restart")


def fault_words(error: Exception) -> str:
    """Why a reload failed, without the lines that are wrong: they may hold secrets."""
    return error.summary if isinstance(error, SettingsError) else str(error)


def _fixed(settings: Settings) -> dict[str, object]:
    """What a reload cannot change, by the name of its key."""
    tls = settings.tls
    return {
        **{name: getattr(settings, name) for name in _FIXED},
        "tls": None if tls is None else (tls.certificate, tls.key, tls.client_ca),
        "client.api_key_header": settings.client.api_key_header,
    }
