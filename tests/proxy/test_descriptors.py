"""The limit of open descriptors: raised as far as needed and allowed, never lowered."""

import resource
import sys

import pytest

from proxy.descriptors import raise_limit

UNLIMITED = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch):
    """A process with these limits: ``{"soft": …, "hard": …, "kernel": …}``."""
    state = {"soft": 1024, "hard": 4096, "kernel": 2**20}

    def setrlimit(kind, given):
        assert kind == resource.RLIMIT_NOFILE
        assert given[1] == state["hard"]  # it could never be raised again
        if given[0] > state["kernel"]:
            raise ValueError("current limit exceeds maximum limit")
        state["soft"] = given[0]

    monkeypatch.setattr(resource, "getrlimit", lambda _: (state["soft"], state["hard"]))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    return state


@pytest.mark.parametrize(
    ("soft", "hard", "needed", "available"),
    [
        (1024, 4096, 2000, 2000),
        (1024, 4096, 4096, 4096),
        (1024, 4096, 5000, 4096),
        (1024, 4096, 100, 1024),
        (1024, 1024, 2000, 1024),
        (1024, UNLIMITED, 2000, 2000),
        (UNLIMITED, UNLIMITED, 2000, sys.maxsize),
    ],
)
def test_as_far_as_needed_and_allowed(limits, soft, hard, needed, available):
    limits.update(soft=soft, hard=hard)
    assert raise_limit(needed) == available
    assert limits["soft"] == (UNLIMITED if available == sys.maxsize else available)


def test_a_kernel_that_refuses_leaves_the_limit(limits):
    limits.update(hard=UNLIMITED, kernel=1500)
    assert raise_limit(2000) == 1024


def test_the_process_itself():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = 512 if soft == UNLIMITED else min(soft, 512)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lower - 1, hard))
    try:
        assert raise_limit(lower) == lower
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (lower, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
