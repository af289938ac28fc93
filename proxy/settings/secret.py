"""A secret as the configuration holds it."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator, SecretStr

_LENGTH: Final = 16


def _stripped(given: SecretStr) -> SecretStr:
    # A file's last line feed comes along into a variable, and is no part of the secret.
    return SecretStr(given.get_secret_value().strip())


def _long(given: SecretStr) -> SecretStr:
    if len(given.get_secret_value()) < _LENGTH:
        raise ValueError(f"must hold at least {_LENGTH} characters")
    return given


Password = Annotated[SecretStr, AfterValidator(_stripped)]
"""A secret that others chose, without white space around it."""
Secret = Annotated[Password, AfterValidator(_long)]
"""A secret of ours: at least 16 characters, without white space around it."""
