"""The page ``docs/configuration.md``, made from the models: no key is left out or invented."""

from __future__ import annotations

from typing import Any, Final

import orjson

from proxy.settings.schema import generated

_SECTIONS: Final = {
    "Settings": "The file",
    "Tls": "`tls`",
    "Admin": "`admin`",
    "Sharing": "`sharing`",
    "SharingTls": "`sharing.tls`",
    "Client": "`client`",
    "Audit": "`audit`",
    "Log": "`log`",
    "Http": "`http`",
    "Grpc": "`grpc`",
    "ExtProc": "`ext_proc`",
    "Endpoint": "`endpoints[]`",
    "UpstreamTls": "`endpoints[].upstream_tls`",
    "EndpointGrpc": "`endpoints[].grpc`",
    "V2": "`endpoints[].protocol`, name `v2`",
    "V1": "`endpoints[].protocol`, name `v1`",
    "Invocations": "`endpoints[].protocol`, name `invocations`",
    "TorchServe": "`endpoints[].protocol`, name `torchserve`",
    "Image": "`endpoints[].protocol.image`, of `torchserve`",
    "Seldon": "`endpoints[].protocol`, name `seldon`",
    "CustomJson": "`endpoints[].protocol`, name `json`",
    "OpenAI": "`endpoints[].protocol`, name `openai`",
    "Auto": "`endpoints[].protocol`, name `auto`",
    "Timeouts": "`endpoints[].timeouts`",
    "LearntContract": "`endpoints[].contract`, learnt",
    "DeclaredContract": "`endpoints[].contract`, stated",
    "Tensor": "`endpoints[].contract.inputs[]`",
    "DeclaredColumns": "`endpoints[].contract`, of a data frame",
    "Column": "`endpoints[].contract.columns[]`",
    "Patterns": "`endpoints[].patterns`",
    "Answer": "`endpoints[].answer`",
    "SecondOpinion": "`endpoints[].second_opinion`",
    "Shaping": "`endpoints[].shaping`",
    "Capture": "`endpoints[].capture`",
    "Limits": "`endpoints[].limits`",
    "Quota": "`endpoints[].subnet_limits` and `endpoint_limits`",
    "RuleSwitch": "`endpoints[].rules.BZ-nnn`",
    "Exclusion": "`endpoints[].rules.BZ-nnn.exclude[]`",
}

_INTRODUCTION: Final = """\
# Configuration

One YAML file. `bartizan validate CONFIG` reports everything that is wrong with it at once, with
file, line and column; `bartizan config schema` prints its JSON Schema, which an editor uses if the
file begins with

```yaml
# yaml-language-server: $schema=schema.json
```

The files in `config/` are examples to start from. This page is `bartizan config reference`.

- Unknown keys and keys that are given twice are errors, and so is a key that would do nothing.
- `${NAME}` is replaced by an environment variable, `${NAME:-default}` gives a default, `$${` is a
  plain `${`. A variable that is not set, or is empty, and has no default is an error. Within braces
  (`{token: "${TOKEN}"}`) it needs quotes.
- Scalars are those of YAML 1.2: only `true` and `false` are booleans. Anchors, aliases and `<<`
  work within bounds; tags do not.
- White space around a secret (`admin.token`, `audit.key`, `client.secret`,
  `sharing.password`) is no part of it. An
  error shows the line that it is about only where no secret could stand: not in these sections, not
  at an unknown key, and not in a file that is no YAML.
- Relative paths start from the directory of the configuration file.
- Sizes are bytes, or carry a unit: `64KiB`, `10MiB`, `1GB`.
- SIGHUP loads the file anew. A faulty one changes nothing: the last good configuration stays. What
  clients have used of their quotas is kept.

## Quotas
The unit of every limit is a row: one example that the model would see. A rate with a burst admits
at most `burst_rows + rows_per_second * t` rows in any `t` seconds. A day runs from midnight to
midnight UTC, so that up to twice `rows_per_day` can pass in the 24 hours around a midnight. A
request takes its rows from the client's, the subnet's and the endpoint's quota, or from none of
them, and a refusal says with Retry-After when the same request would pass.

Clients are told apart up to `client.max_known`. A client is forgotten only once its quota is full
again, so that no flood of newcomers clears a record; while none can be forgotten, newcomers share
one quota.
"""


def reference() -> str:
    """The page as Markdown."""
    parts = [_INTRODUCTION]
    definitions = {"Settings": generated(), **generated()["$defs"]}
    for name, title in _SECTIONS.items():
        parts.append(_section(title, definitions[name]))
    return "\n".join(parts)


def _section(title: str, schema: dict[str, Any]) -> str:
    lines = [f"## {title}", "", schema["description"].replace("``", "`"), ""]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    required = schema.get("required", ())
    for key, node in schema["properties"].items():
        default = "*required*" if key in required else _default(node)
        meaning = " ".join(node.get("description", "").split()).replace("``", "`")
        cells = (f"`{key}`", _kind(node), default, meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(node: dict[str, Any]) -> str:
    if "default" not in node:
        return ""
    value = node["default"]
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "see below"
    return f"`{value if isinstance(value, str) else orjson.dumps(value).decode()}`"


def _kind(node: dict[str, Any]) -> str:
    for union in ("anyOf", "oneOf"):
        if union in node:
            kinds = [_kind(option) for option in node[union] if option.get("type") != "null"]
            return " or ".join(dict.fromkeys(kinds))
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        return "mapping" if name in _SECTIONS else _kind(generated()["$defs"][name])
    if "enum" in node or "const" in node:
        return ", ".join(f"`{value}`" for value in node.get("enum", [node.get("const")]))
    if node.get("type") == "array":
        items = node.get("items", {})
        return f"list of {_kind(items)}"
    if node.get("type") == "object":
        return "mapping"
    return str(node.get("type", "any"))
