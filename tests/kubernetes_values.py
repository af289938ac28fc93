"""The chart's values as a table, read off the comments of values.yaml.

Run as a program, it writes the table into the chart's README (``make manifests``).
"""

import json

import yaml
from deploy_tools import REPOSITORY

CHART = REPOSITORY / "deploy/helm/bartizan"
BEGIN, END = "<!-- values -->\n", "\n<!-- end of values -->"


def documented():
    """``{key: (default, meaning)}`` of values.yaml: a key is documented by the `# --` before it."""
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    found, path, comment = {}, [], None
    for line in (CHART / "values.yaml").read_text().splitlines():
        text = line.strip()
        depth = (len(line) - len(line.lstrip())) // 2
        if text.startswith("# --"):
            comment = [text.removeprefix("# --").strip()]
        elif text.startswith("#") and comment is not None:
            comment.append(text.removeprefix("#").strip())
        elif text and not text.startswith(("#", "-")):
            path = [*path[:depth], text.partition(":")[0]]
            if comment is not None:
                value = defaults
                for key in path:
                    value = value[key]
                found[".".join(path)] = (json.dumps(value), " ".join(comment))
            comment = None
    return found


def table():
    """The README's table of values."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for key, (default, meaning) in documented().items():
        shown = default if len(default) <= 60 else "see values.yaml"
        lines.append(f"| `{key}` | `{shown}` | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    readme = CHART / "README.md"
    head, rest = readme.read_text().split(BEGIN)
    readme.write_text(head + BEGIN + table() + END + rest.split(END)[1])
