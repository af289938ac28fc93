"""What a message tells an operator to install is an extra of ours, and nobody else's package."""

import re
import tomllib
from pathlib import Path

# The name is published by nobody: whoever registers it would be installed. A folder is ours, and a
# name that says where it is found.
NAME = re.compile(r"(?<!/)bartizan\[[\w,-]+\](?! @ )|pip install '?bartizan")
REPOSITORY = Path(__file__).resolve().parent.parent


def test_messages_name_extras_of_this_checkout_and_no_package_of_an_index():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    named = []
    for package in ("proxy", "detectors", "loadtest"):
        for path in (REPOSITORY / package).rglob("*.py"):
            text = path.read_text()
            assert not NAME.search(text), path
            named += re.findall(r"'\.\[(\S+)\]' in a checkout", text)
    assert len(named) == 17
    assert set(named) - {"{extra}"} <= set(project["optional-dependencies"])


def test_pages_and_examples_name_no_package_of_an_index():
    pages = [REPOSITORY / "README.md"]
    for folder in ("docs", "config", "deploy"):
        pages += [path for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
    text = {path: path.read_text(errors="replace") for path in pages}
    assert len(text) > 100
    assert [path for path in text if NAME.search(text[path])] == []
    for bad in ("bartizan[train]", "pip install bartizan", 'x: "bartizan[a,b]==1"'):
        assert NAME.search(bad)
    for good in ("./bartizan[a-b]", "bartizan[a] @ git+https://x@1", "pip install '.[a]'"):
        assert not NAME.search(good)
