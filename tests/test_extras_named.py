"""What a message tells an operator to install is an extra of ours, and nobody else's package."""

import re
import tomllib
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def test_messages_name_extras_of_this_checkout_and_no_package_of_an_index():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    named = []
    for package in ("proxy", "detectors", "loadtest"):
        for path in (REPOSITORY / package).rglob("*.py"):
            text = path.read_text()
            # The name is published by nobody: whoever registers it would be installed.
            assert not re.search(r"bartizan\[|pip install '?bartizan", text), path
            named += re.findall(r"'\.\[(\S+)\]' in a checkout", text)
    assert len(named) == 17
    assert set(named) - {"{extra}"} <= set(project["optional-dependencies"])
