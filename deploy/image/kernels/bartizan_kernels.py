"""The image's native kernels: compiled when it is built, for a level of CPU that it names.

numba keeps kernels for the very CPU that compiled them, and looks for them only where it can write:
an image would compile them again, for half a minute, at each start on any other CPU and wherever
its root is read-only. So they are compiled for x86-64-v3 (AVX2 and FMA: Intel since 2013, AMD since
2015), and taken on every CPU that has it. On any other they are compiled at the start.

Imported by bartizan_kernels.pth whenever Python starts, before anything else: it must be quick and
must not fail. While the image is built, :func:`precompile` fills the folder.
"""

import os
import sys
from pathlib import Path

FOLDER = Path(sys.prefix, "kernels")
# As the psABI defines the level, in Linux's words and in LLVM's.
LEVEL = "x86-64-v3"
NEEDED = frozenset(
    {
        *("cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2"),
        *("abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"),
    }
)
FEATURES = (
    "+64bit,+cmov,+cx8,+fxsr,+mmx,+sse,+sse2,"
    "+cx16,+sahf,+popcnt,+sse3,+ssse3,+sse4.1,+sse4.2,+crc32,"
    "+lzcnt,+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+movbe,+xsave"
)


def has_level(cpuinfo: str) -> bool:
    """Whether /proc/cpuinfo, or its beginning, tells of a CPU of the level."""
    for line in cpuinfo.splitlines():
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            return frozenset(flags.split()) >= NEEDED
    return False


def choose(environment: "os._Environ[str] | dict[str, str]", cpuinfo: str) -> None:
    """Points numba at the kernels of the image, or at a folder that outlives a worker.

    Does nothing where the operator has chosen either.
    """
    chosen = {"NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_CACHE_DIR"} & environment.keys()
    if chosen or "NUMBA_CACHE_LOCATOR_CLASSES" in environment:
        return
    if has_level(cpuinfo):
        environment["NUMBA_CPU_NAME"] = LEVEL
        environment["NUMBA_CPU_FEATURES"] = FEATURES
        environment["NUMBA_CACHE_LOCATOR_CLASSES"] = "bartizan_kernel_cache.Precompiled"
    else:
        environment["NUMBA_CACHE_DIR"] = "/tmp/bartizan-kernels"  # noqa: S108 - the container's own


def _cpuinfo() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as file:
            return file.read(16384)  # one processor of maybe hundreds
    except OSError:
        return ""


def precompile() -> None:
    """Compiles what is not there; says what it did."""
    from importlib.util import find_spec  # noqa: PLC0415 - not at every start of Python

    if find_spec("numba") is None:
        words = "no kernels: numba is not installed"
    elif os.environ.get("NUMBA_CPU_NAME") != LEVEL:
        words = f"no kernels: this machine is not {LEVEL}; they will be compiled at each start"
    else:
        from detectors import native  # noqa: PLC0415 - as above
        from detectors.patterns import native as patterns  # noqa: PLC0415 - as above

        native.load()
        patterns.load()
        words = f"kernels for {LEVEL} are in {FOLDER}"
    sys.stdout.write(f"{words}\n")


choose(os.environ, _cpuinfo())
