"""How a configuration names environment variables: ``${NAME}`` and ``${NAME:-default}``."""

from __future__ import annotations

import re
from typing import Final

VARIABLE: Final = re.compile(
    r"\$(?:(\$)(?=\{)|\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|(\{[^}]*\}?))"
)
"""Groups: the second dollar of ``$${``; the name; the default or None; what is malformed."""
