"""Takes out of a root file system what a server never needs, and compiles the Python that is left.

Run by the base image's own Python while the image is built: ``python3 -I slim.py /opt/bartizan``.
Installers, tests, headers, documentation (but no licence), package lists; and the right of programs
to run as their owner.
"""

import compileall
import os
import py_compile
import shutil
import stat
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("pip", "setuptools", "wheel", "pkg_resources", "_distutils_hack", "distutils-prec*")
LIBRARY = ("ensurepip", "idlelib", "lib2to3", "tkinter", "turtledemo", "test", "pydoc_data")
PROGRAMS = ("pip", "wheel", "easy_install", "idle", "2to3", "pydoc", "pygettext")
FOLDERS = (
    *("/usr/share/man", "/usr/share/info", "/usr/share/locale", "/usr/share/lintian"),
    *("/usr/share/python-wheels", "/usr/local/include", "/usr/include", "/usr/local/share/man"),
    *("/var/lib/apt/lists", "/var/cache/apt", "/var/cache/debconf", "/var/log", "/root/.cache"),
)
KEPT = {"/var/log/bartizan"}
TESTS = {"tests", "test"}


def main(environment: Path) -> None:
    """All of it."""
    library = Path(sysconfig.get_path("stdlib"))
    for name in LIBRARY:
        remove(library / name)
    for place in {Path(sysconfig.get_path("purelib")), Path("/usr/lib/python3/dist-packages")}:
        for package in PACKAGES:
            for form in ("", "-*", ".*"):
                clear(place, package + form)
    for folder in (Path("/usr/bin"), Path("/usr/local/bin")):
        for program in PROGRAMS:
            clear(folder, f"{program}*")
        clear(folder, "python*-config")
    clear(library, "config-*")
    for name in FOLDERS:
        clear(Path(name), "*")
    # Of the environment's own programs, ours and Python: the rest belong to libraries.
    for path in list((environment / "bin").iterdir()):
        if path.name != "bartizan" and not path.name.startswith("python"):
            remove(path)
    for path in list(Path("/usr/share/doc").rglob("*")):
        if path.name != "copyright" and not path.is_dir():
            path.unlink()
    packages = Path(next(environment.glob("lib/python3*/site-packages")))
    for path in [path for path in packages.rglob("*") if path.name in TESTS and path.is_dir()]:
        remove(path)
    demote()
    for root in (library, packages):
        # Never compared with its source again: the image does not change.
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        if not compileall.compile_dir(root, quiet=1, force=True, workers=0, invalidation_mode=mode):
            sys.exit(f"not all of {root} could be compiled")


def clear(folder: Path, names: str) -> None:
    """What is called so in a folder."""
    for path in list(folder.glob(names)):
        if str(path) not in KEPT:
            remove(path)


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def files(root: Path) -> Iterator[Path]:
    """Every file of the image; not what the system mounts into it."""
    for folder, below, names in os.walk(root):
        if folder == "/":
            below[:] = [name for name in below if name not in {"proc", "sys", "dev"}]
        yield from (Path(folder, name) for name in names)


def demote() -> None:
    """Programs run as whoever starts them."""
    for path in files(Path("/")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            path.chmod(stat.S_IMODE(mode) & ~(stat.S_ISUID | stat.S_ISGID))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
