"""One endpoint's mode changed in a configuration file, and every other byte left as it is.

The place is found by the marks of the YAML parser. That nothing else changed is then checked by
reading the result as the gateway would, and comparing.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from proxy.decision import Mode
from proxy.settings.load import Check, load
from proxy.settings.models import Settings
from proxy.settings.problems import SettingsError

_WORD: Final = re.compile(r"(?P<quote>['\"]?)(?P<word>[a-z]+)(?P=quote)\Z")


class EditError(ValueError):
    """The file cannot be changed so that only this mode changes: why, and what to do by hand."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A change that was not made yet.

    Attributes:
        path: the file, symbolic links followed.
        before, after: its bytes.
        line: where it changes, from 1.
    """

    path: Path
    before: bytes
    after: bytes
    line: int


def plan(path: Path, endpoint: str, mode: Mode, checks: Iterable[Check] = ()) -> Edit:
    """Finds the change, and tries it on a copy beside the file.

    Args:
        checks: that the result has to pass, as ``bartizan validate`` makes them.

    Raises:
        EditError: if only this mode cannot be changed.
        SettingsError: if the result could not be served.
        OSError: if the file cannot be read, or the copy not be written.
    """
    real = path.resolve(strict=True)
    before = real.read_bytes()
    text = before.decode("utf-8")  # as it was loaded before, it is
    after, line = _changed(text, endpoint, mode)
    edit = Edit(real, before, after.encode("utf-8"), line)
    _check(path, edit, endpoint, mode, checks)
    return edit


def apply(edit: Edit) -> None:
    """Puts the new file in the place of the old one, at once and with its permissions.

    Raises:
        EditError: if the file has changed meanwhile, or others know it by another name.
        OSError: if it cannot be written; then it is as it was.
    """
    status = edit.path.stat()
    if status.st_nlink > 1:
        raise EditError(f"{edit.path} has several names (hard links), and only one would change")
    copy = _copy(edit.path.parent, edit.after)
    try:
        made = copy.stat()
        if (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
            os.chown(copy, status.st_uid, status.st_gid)
        copy.chmod(stat.S_IMODE(status.st_mode))
        _check_unchanged(edit)
        copy.replace(edit.path)
    except BaseException:
        copy.unlink(missing_ok=True)
        raise
    folder = os.open(edit.path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check_unchanged(edit: Edit) -> None:
    if edit.path.read_bytes() != edit.before:
        raise EditError(f"{edit.path} was changed by someone else meanwhile: nothing is written")


def _copy(folder: Path, data: bytes) -> Path:
    """A file of its own in a folder, on disk.

    Raises:
        OSError: if it cannot be written; then there is none.
    """
    number, name = tempfile.mkstemp(prefix=".bartizan-", suffix=".yaml", dir=folder)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    return Path(name)


def _check(path: Path, edit: Edit, endpoint: str, mode: Mode, checks: Iterable[Check]) -> None:
    """That the result is the old configuration, but for the mode. Relative paths begin at the
    folder of the name that was given, so the copy that is tried lies there."""
    old = load(path)
    copy = _copy(path.absolute().parent, edit.after)
    try:
        new = load(copy, checks=checks)
    except SettingsError as error:
        words = str(error).replace(str(copy), str(path))
        raise EditError(f"the result could not be served:\n{words}") from None
    finally:
        copy.unlink(missing_ok=True)
    if _others(new, endpoint) != _others(old, endpoint):
        raise EditError(f"more than the mode of {endpoint} would change: edit {path} by hand")
    if next(one for one in new.endpoints if one.name == endpoint).mode is not mode:
        raise EditError(f"the mode of {endpoint} would not change: edit {path} by hand")


def _others(settings: Settings, endpoint: str) -> dict[str, Any]:
    """All values, secrets among them, but for what a mode is."""
    values = settings.model_dump()
    for one in values["endpoints"]:
        if one["name"] == endpoint:
            del one["mode"]
            stated = next(given for given in settings.endpoints if given.name == endpoint)
            if "failure_mode" not in stated.model_fields_set:
                del one["failure_mode"]
    return values


def _changed(text: str, endpoint: str, mode: Mode) -> tuple[str, int]:
    """The text with the mode, and the line of it."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    uses = _uses(root)
    mapping = _endpoint(root, endpoint)
    if uses[id(mapping)] > 1:
        raise EditError(
            f"line {mapping.start_mark.line + 1}: the endpoint is used elsewhere by an alias or a "
            "merge key, which would change as well: write its mode out by hand"
        )
    for key, value in mapping.value:
        if key.value == "mode":
            return _replaced(text, key, value, uses, mode)
    return _inserted(text, mapping, mode)


def _uses(root: yaml.Node | None) -> dict[int, int]:
    """How often each node is used: more than once by aliases."""
    uses: dict[int, int] = {}

    def count(node: yaml.Node) -> None:
        uses[id(node)] = uses.get(id(node), 0) + 1
        if uses[id(node)] > 1:
            return
        for child in _children(node):
            count(child)

    if root is not None:
        count(root)
    return uses


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _endpoint(root: yaml.Node | None, name: str) -> yaml.MappingNode:
    """The mapping that holds the endpoint of this name, which is written out in it."""
    assert isinstance(root, yaml.MappingNode)  # it was loaded
    for key, value in root.value:
        if key.value == "endpoints" and isinstance(value, yaml.SequenceNode):
            for item in value.value:
                if isinstance(item, yaml.MappingNode) and any(
                    one.value == "name" and what.value == name for one, what in item.value
                ):
                    return item
    raise EditError(
        f"the endpoint {name!r} is not written out under endpoints (its name comes from a "
        "variable, an alias or a merge key): edit the file by hand"
    )


def _replaced(
    text: str, key: yaml.Node, value: yaml.Node, uses: dict[int, int], mode: Mode
) -> tuple[str, int]:
    line = key.start_mark.line + 1
    if uses[id(value)] > 1:
        raise EditError(
            f"line {line}: the mode is shared by an anchor with other places: write it out by hand"
        )
    start, end = value.start_mark.index, value.end_mark.index
    written = text[start:end]
    if "${" in written:
        raise EditError(
            f"line {line}: the mode is {written}, from the environment: set {mode.value} there"
        )
    found = _WORD.search(written)
    if found is None or found["word"] != value.value:
        raise EditError(f"line {line}: the mode is not written as one word: edit it by hand")
    at = start + found.start("word")
    return text[:at] + mode.value + text[at + len(found["word"]) :], line


def _inserted(text: str, mapping: yaml.MappingNode, mode: Mode) -> tuple[str, int]:
    """As the mode is not stated, it is put behind the name."""
    key, value = next(pair for pair in mapping.value if pair[0].value == "name")
    line = key.start_mark.line
    if value.end_mark.line != line:
        raise EditError(f"line {line + 1}: the name takes several lines: add the mode by hand")
    if mapping.flow_style:
        at = value.end_mark.index
        return f"{text[:at]}, mode: {mode.value}{text[at:]}", line + 1
    found = re.compile(r"\r\n|\n|\r|\Z").search(text, value.end_mark.index)
    assert found is not None
    ending = found[0] or ("\r\n" if "\r\n" in text else "\n")
    indent = " " * key.start_mark.column
    rest = text[found.end() :]
    inserted = f"{indent}mode: {mode.value}"
    if found[0]:
        return f"{text[: found.end()]}{inserted}{ending}{rest}", line + 2
    return f"{text}{ending}{inserted}", line + 2
