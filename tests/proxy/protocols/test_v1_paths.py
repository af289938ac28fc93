"""The paths of V1."""

import pytest

from proxy.protocols.base import Call
from proxy.protocols.v1_paths import Paths
from proxy.rules import CONTROL_PATH, METHOD, NO_ROUTE, Refusal

PREFIX = "/a/v1/models/m"

PASSED = [
    ("POST", ":predict", Call.INFER, ""),
    ("POST", "/versions/3:predict", Call.INFER, "3"),
    ("POST", "/labels/stable:predict", Call.INFER, "stable"),
    ("POST", ":classify", Call.INFER, ""),
    ("GET", "", Call.METADATA, ""),
    ("GET", "/metadata", Call.METADATA, ""),
    ("GET", "/versions/3", Call.METADATA, "3"),
    ("GET", "/versions/3/metadata", Call.METADATA, "3"),
    ("GET", "/labels/stable/metadata", Call.METADATA, "stable"),
]


def test_what_passes():
    paths = Paths(PREFIX, "/v1/models/other", ("predict", "classify"))
    ran = 0
    for method, suffix, call, version in PASSED:
        route = paths.route(method, PREFIX + suffix)
        assert (route.call, route.method, route.version) == (call, method, version)
        assert (route.model, route.target) == ("m", f"/v1/models/other{suffix}".encode())
        ran += 1
    assert ran == 9


REFUSED = [
    ("GET", f"{PREFIX}:predict", METHOD),
    ("HEAD", PREFIX, METHOD),
    ("POST", PREFIX, METHOD),
    ("POST", f"{PREFIX}:explain", CONTROL_PATH),
    ("POST", f"{PREFIX}:regress", CONTROL_PATH),
    ("POST", f"{PREFIX}/versions/3:explain", CONTROL_PATH),
    ("GET", f"{PREFIX}/stats", CONTROL_PATH),
    ("GET", f"{PREFIX}/versions", CONTROL_PATH),
    ("GET", f"{PREFIX}/versions/3/metadata/x", CONTROL_PATH),
    ("GET", f"{PREFIX}/metadata:predict", CONTROL_PATH),
    ("GET", "/a/v1/models", CONTROL_PATH),
    ("POST", "/a/v1/config", CONTROL_PATH),
    ("POST", "/a/v1/models/m2:predict", NO_ROUTE),
    ("POST", "/a/v1/models/n:predict", NO_ROUTE),
    ("POST", "/v1/models/m:predict", NO_ROUTE),
    ("POST", f"{PREFIX}:predict/", NO_ROUTE),
    ("POST", f"{PREFIX}:predict?x=1", NO_ROUTE),
    ("POST", f"{PREFIX}:predict:predict", NO_ROUTE),
    ("POST", f"{PREFIX}:", NO_ROUTE),
    ("POST", f"{PREFIX}:Predict", NO_ROUTE),
    ("POST", f"{PREFIX}/:predict", NO_ROUTE),
    ("POST", f"{PREFIX}/versions/..:predict", NO_ROUTE),
    ("POST", "/a/v1/models/%6d:predict", NO_ROUTE),
    ("POST", "/a/v1//models/m:predict", NO_ROUTE),
    ("POST", "/a/v1/models/m%3apredict", NO_ROUTE),
    ("GET", "/", NO_ROUTE),
    ("GET", "", NO_ROUTE),
]


def test_what_does_not():
    paths = Paths(PREFIX, None)
    ran = 0
    for method, target, rule in REFUSED:
        with pytest.raises(Refusal) as refusal:
            paths.route(method, target)
        assert refusal.value.rule is rule, target
        ran += 1
    assert ran == 27


def test_only_the_calls_that_are_configured():
    paths = Paths(PREFIX, None, ("regress",))
    assert paths.route("POST", f"{PREFIX}:regress").call is Call.INFER
    with pytest.raises(Refusal) as refusal:
        paths.route("POST", f"{PREFIX}:predict")
    assert refusal.value.rule is CONTROL_PATH


@pytest.mark.parametrize("which", ["versions/3", "labels/stable"])
def test_one_version_alone(which):
    paths = Paths(f"{PREFIX}/{which}", "/v1/models/x/versions/7")
    assert paths.served == "x"
    route = paths.route("POST", f"{PREFIX}/{which}:predict")
    assert (route.version, route.target) == (
        which.split("/")[1],
        b"/v1/models/x/versions/7:predict",
    )
    assert paths.route("GET", f"{PREFIX}/{which}/metadata").version == route.version
    fixed = Paths(PREFIX, "/v1/models/x/versions/7")
    assert fixed.route("POST", f"{PREFIX}:predict").target == b"/v1/models/x/versions/7:predict"
    for one, target, rule in (
        (paths, f"{PREFIX}/{which}/versions/4:predict", CONTROL_PATH),
        (paths, f"{PREFIX}:predict", NO_ROUTE),
        (paths, f"{PREFIX}/versions/4:predict", NO_ROUTE),
        (fixed, f"{PREFIX}/versions/4:predict", CONTROL_PATH),
    ):
        with pytest.raises(Refusal) as refusal:
            one.route("POST", target)
        assert refusal.value.rule is rule, target


@pytest.mark.parametrize(
    "prefix", ["", "/", "/v1/models", "/v1/models/", "/v2/models/m", "/v1/models/m/", "v1/models/m"]
)
def test_a_prefix_of_another_protocol(prefix):
    with pytest.raises(ValueError, match="v1/models/MODEL"):
        Paths(prefix)
    with pytest.raises(ValueError, match="v1/models/MODEL"):
        Paths(PREFIX, prefix)
