"""A file of the configuration as text, within bounds."""

from __future__ import annotations

from pathlib import Path

from proxy.settings.problems import Problem, SettingsError


def read_text(path: Path, most: int) -> str:
    """The text of a UTF-8 file of at most ``most`` bytes.

    Raises:
        SettingsError: if it cannot be read, is larger or is not UTF-8.
    """

    def failed(message: str, line: int = 0, column: int = 0) -> SettingsError:
        return SettingsError([Problem(str(path), line, column, message)])

    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise failed((error.strerror or str(error)).lower()) from None
    except ValueError:  # a NUL in the path
        raise failed("not the name of a file") from None
    if len(data) > most:
        raise failed(f"larger than {most // 1024} KiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = error.start - before.rfind(b"\n")
        raise failed("not UTF-8 text", before.count(b"\n") + 1, column) from None
