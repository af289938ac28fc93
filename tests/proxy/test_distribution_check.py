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


@pytest.mark.parametrize(
    ("file", "listed"),
    [
        ("RECORD", "first.py,,\nproxy/__init__.py,sha256=x,1\n"),
        ("RECORD", "proxy.py,sha256=x,1\n"),
        ("top_level.txt", "other\nproxy\n"),
    ],
)
def test_a_distribution_that_is_installed_is_seen(tmp_path, monkeypatch, file, listed):
    information = tmp_path / "proxy_py-2.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: proxy.py\nVersion: 2.0\n")
    (information / file).write_text(listed)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ClashError, match=r"'proxy\.py' also ships the package 'proxy'"):
        check_packages()


def test_a_distribution_without_a_list_is_none_of_ours(tmp_path, monkeypatch):
    information = tmp_path / "bare-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: bare\nVersion: 1\n")
    (information / "RECORD").write_text("proxying/__init__.py,,\nx/proxy/__init__.py,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    check_packages()
