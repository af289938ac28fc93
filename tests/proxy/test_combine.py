"""What several workers say, as one."""

from proxy.combine import combine_clients, combine_endpoints


def endpoint(**changes):
    return {
        "name": "digits",
        "problem": None,
        "bundle": "ab",
        "contract": [{"name": "input"}],
        "patterns": {"clients": 3, "bytes": 100, "evictions": 1},
        "upstreams": [{"address": "h:1", "in_flight": 2, "ejected": False}],
        **changes,
    }


def client(**changes):
    return {
        "endpoint": "digits",
        "client": "c1",
        "evidence": {"probing": 3.0},
        "thresholds": {"probing": 9.0},
        "level": "allow",
        "queries": 10,
        "coverage": None,
        "banned_seconds": None,
        "seen_seconds_ago": 5.0,
        **changes,
    }


def test_endpoints_add_up():
    busy = endpoint(
        patterns={"clients": 5, "bytes": 50, "evictions": 0},
        upstreams=[{"address": "h:1", "in_flight": 1, "ejected": True}],
    )
    (one,) = combine_endpoints({1: [endpoint()], 2: [busy]})
    assert one["upstreams"] == [{"address": "h:1", "in_flight": 3, "ejected": True}]
    assert one["patterns"] == {"clients": 5, "bytes": 150, "evictions": 1}
    assert one["problem"] is None


def test_a_problem_names_its_worker():
    (one,) = combine_endpoints({1: [endpoint()], 2: [endpoint(problem="away")]})
    assert one["problem"] == "worker 2: away"
    (one,) = combine_endpoints({3: [endpoint(problem="away")]})
    assert one["problem"] == "worker 3: away"


def test_different_bundles_are_a_problem():
    (one,) = combine_endpoints({1: [endpoint()], 2: [endpoint(bundle="cd")]})
    assert "different bundles" in one["problem"]


def test_what_only_one_knows_is_told():
    bare = endpoint(contract=None, patterns=None, upstreams=[])
    for told in ({1: [bare], 2: [endpoint()]}, {1: [endpoint()], 2: [bare]}):
        (one,) = combine_endpoints(told)
        assert one["contract"] == [{"name": "input"}]
        assert one["patterns"] == endpoint()["patterns"]
    other = endpoint(name="other")
    assert [one["name"] for one in combine_endpoints({1: [endpoint(), other]})] == [
        "digits",
        "other",
    ]
    assert combine_endpoints({}) == []


def test_of_a_client_the_one_who_knows_more_is_right():
    behind = client(level="throttle", evidence={"probing": 1.0}, thresholds={}, queries=None)
    ahead = client(
        evidence={"probing": 4.0, "extraction": 1.0},
        level="shape",
        queries=12,
        coverage=0.5,
        banned_seconds=60.0,
        seen_seconds_ago=1.0,
    )
    for told in ([[behind], [ahead]], [[ahead], [behind]]):
        (one,) = combine_clients(told)
        assert one["evidence"] == {"probing": 4.0, "extraction": 1.0}
        assert one["thresholds"] == {"probing": 9.0}
        assert one["level"] == "throttle"
        assert (one["queries"], one["coverage"]) == (12, 0.5)
        assert (one["banned_seconds"], one["seen_seconds_ago"]) == (60.0, 1.0)


def test_who_only_heard_of_a_client_yields_to_who_knows_it():
    heard = client(
        evidence={"most": 7.0}, thresholds={}, level=None, queries=None, seen_seconds_ago=None
    )
    for told in ([[heard], [client()]], [[client()], [heard]]):
        assert combine_clients(told) == [client()]
    assert combine_clients([[heard], [heard]]) == [heard]


def test_the_strongest_come_first_and_endpoints_stay_apart():
    weak, strong = client(client="w", evidence={}), client(client="s", evidence={"probing": 8.0})
    told = combine_clients([[weak, client()], [strong, client(endpoint="other")]])
    assert [one["client"] for one in told] == ["s", "c1", "c1", "w"]
    assert {one["endpoint"] for one in told} == {"digits", "other"}
