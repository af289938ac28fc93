"""What becomes of a test whose real component is not here."""

import os

import pytest


def absent(name: str, reason: str) -> None:
    """Skips the test, and says why.

    With ``BARTIZAN_REQUIRE_TOOLS=1``, which ``.ci/run`` sets once it has installed them, it fails
    the test, so that nothing is left untried in silence; but for what ``BARTIZAN_ABSENT_TOOLS``
    names, which is what could not be installed there.

    Args:
        name: a command, an environment (``.venv-helm``), or ``root``.
    """
    required = os.environ.get("BARTIZAN_REQUIRE_TOOLS") == "1"
    if required and name not in os.environ.get("BARTIZAN_ABSENT_TOOLS", "").split():
        pytest.fail(reason)
    pytest.skip(reason)
