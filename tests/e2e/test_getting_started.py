"""docs/getting-started.md, followed word for word, with a real model server."""

import os
from pathlib import Path

import pytest
from deploy_tools import tool
from walkthrough import Strayed, follow, matches, steps

PAGE = Path(__file__).resolve().parents[2] / "docs" / "getting-started.md"


def test_the_page_does_what_it_says(tmp_path):
    mlserver, unshare, ip = Path(tool("mlserver")), tool("unshare"), tool("ip")
    # The page's ports are its own in a network of its own; everything else is the reader's shell.
    alone = [unshare, "--net"] if os.geteuid() == 0 else [unshare, "--map-root-user", "--net"]
    ran = follow(
        PAGE,
        tmp_path,
        environment={
            "PATH": f"{PAGE.parents[1] / '.venv' / 'bin'}:{os.environ['PATH']}",
            "MLSERVER": str(mlserver.parent),
        },
        shell=(*alone, "sh", "-c", f"{ip} link set lo up && exec bash"),
    )
    assert ran == sum(1 for s in steps(PAGE.read_text()) if not getattr(s, "install", True))
    assert ran == 28


def test_a_command_that_does_otherwise_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Save as `a`:\n\n```\nx\n```\n\n```console\n$ cat a\nx\n$ cat a\ny\n```\n")
    with pytest.raises(Strayed, match="the page shows:\ny"):
        follow(page, tmp_path)
    page.write_text("text\n```console\n$ false\n```\n")
    with pytest.raises(Strayed, match="exit status 1"):
        follow(page, tmp_path)
    page.write_text("text\n```console\n$ exit 3\n```\n")
    with pytest.raises(Strayed, match="ended the shell"):
        follow(page, tmp_path)
    page.write_text("text\n```yaml\na: b\n```\n")
    with pytest.raises(Strayed, match="neither saved nor run"):
        follow(page, tmp_path)


def test_what_is_shown_is_compared():
    assert matches("a …\n…\nlast 1.5", "a b\nmore\n\nlast 2.75\n")
    assert not matches("a …\n…\nlast 1.5", "a b\nmore\nlast 2\n")
    assert matches("one\n…", "one\ntwo\nthree")
    assert not matches("one", "one\ntwo\n")
    assert not matches("", "anything\n")
    assert matches("", "")
