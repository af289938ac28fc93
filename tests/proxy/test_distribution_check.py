"""Start-up refuses an environment where another distribution ships our packages."""

import pytest

from proxy.distribution import PACKAGES, ClashError, check_packages


def test_this_environment_is_ours():
    check_packages()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_clash_is_named(package: str):
    with pytest.raises(ClashError, match=f"'proxy.py' also ships the package '{package}'"):
        check_packages({package: ["bartizan", "proxy.py"]})


def test_every_clash_is_named_at_once():
    with pytest.raises(ClashError, match=r"'a' .*'b' .*uninstall"):
        check_packages({"proxy": ["a", "bartizan"], "loadtest": ["b"]})
    check_packages({"proxy": ["bartizan"], "other": ["c"]})
