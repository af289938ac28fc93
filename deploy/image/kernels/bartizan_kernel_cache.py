"""Where numba finds the image's kernels. numba imports it: see bartizan_kernels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bartizan_kernels import FOLDER
from numba.core.caching import UserProvidedCacheLocator


class Precompiled(UserProvidedCacheLocator):
    """A folder that need not be writable: numba's own locators pass over those that are not."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        super().__init__(py_func, py_file)
        self._cache_path = str(FOLDER / self.get_suitable_cache_subpath(py_file))

    def ensure_cache_path(self) -> None:
        """The folder is there: it is made where it can be, while the image is built."""
        Path(self._cache_path).mkdir(parents=True, exist_ok=True)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> "Precompiled | None":
        """As its base, but whatever numba's settings say of a folder."""
        locator = cls(py_func, py_file)
        try:
            locator.ensure_cache_path()
        except OSError:
            return None
        return locator
