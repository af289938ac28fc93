"""``proxy``, ``detectors`` and ``loadtest`` are literal top-level packages, and those names are
not rare: a second distribution that ships one replaces our files silently.
"""

import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest

PACKAGES = ("proxy", "detectors", "loadtest")


@pytest.mark.parametrize("package", PACKAGES)
def test_exactly_one_distribution_ships_the_package(package):
    owners = set(packages_distributions().get(package, ()))
    # An editable install lists no packages of its own (a .pth file finds them): ours or nobody.
    assert owners <= {"bartizan"}, f"{sorted(owners)} all ship a top-level package {package!r}"


@pytest.mark.parametrize("package", PACKAGES)
def test_the_imported_package_is_this_one(package, repository):
    where = subprocess.run(
        [sys.executable, "-c", f"import {package}; print({package}.__file__)"],
        cwd=repository.parent,  # not the checkout: the installed package is what is asked for
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert where == str(repository / package / "__init__.py")


def test_the_running_gateway_imports_nothing_that_fits(repository):
    """Import contracts see every import alike; only a process tells which ones are lazy."""
    probe = (
        "import sys, proxy.cli, proxy.build, proxy.server\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}\n"
        "  & {'sklearn', 'scipy', 'pyarrow', 'pandas', 'joblib', 'torch', 'loadtest'}),\n"
        "  *(name for name in sys.modules if name.startswith('detectors.training')))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", probe], cwd=repository, capture_output=True, text=True, check=True
    ).stdout.split()
    assert loaded == []
