"""Whether the files that a configuration names are there, and can be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from proxy.settings.api_keys import read_api_keys
from proxy.settings.models import Settings
from proxy.settings.section import Place

_WRITTEN = ("audit", "path")


def check_files(settings: Settings) -> Iterator[tuple[Place, str]]:
    """Yields the place of every file that is missing, and why it cannot be used.

    Raises:
        SettingsError: if the file of API keys is there, but faulty.
    """
    for place, path in _paths(settings, ()):
        if place == _WRITTEN:
            if not path.parent.is_dir():
                yield place, f"no such directory: {path.parent}"
        elif not path.exists():
            yield place, f"no such file: {path}"
        elif not os.access(path, os.R_OK):
            yield place, f"cannot be read: {path}"
    keys = settings.client.api_keys
    if keys is not None and keys.exists():
        read_api_keys(keys)


def _paths(value: object, place: Place) -> Iterator[tuple[Place, Path]]:
    if isinstance(value, Path):
        yield place, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _paths(getattr(value, name), (*place, name))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _paths(item, (*place, index))
