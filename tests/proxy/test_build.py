"""Settings become objects: nothing that is configured is lost, and nothing is half built."""

import textwrap
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from detectors.bundle_writer import save_bundle
from detectors.training.fit import fit
from proxy import rules
from proxy.build import BuildError, Shared, build, listener_limits, load_bundles
from proxy.decision import Action, FailureMode, Mode
from proxy.explanations import Explanations
from proxy.policy import RuleSetting
from proxy.protocols.contract import Contract
from proxy.settings.load import load
from proxy.state.base import Quota
from proxy.state.memory import MemoryState
from proxy.telemetry.audit import NoAudit
from proxy.telemetry.metrics import Metrics

FEATURES = 3


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A bundle of three features, fitted for a budget of 10 %."""
    rows = np.random.default_rng(5).normal(size=(400, FEATURES)).astype(np.float32)
    fitted = fit(rows, kinds=["mahalanobis"], alpha=0.1, delta=0.05, engine="numpy")
    path = tmp_path_factory.mktemp("bundle") / "m.bundle"
    save_bundle(
        path,
        fitted.scorer,
        fitted.training,
        created="2030-01-01T00:00:00Z",
        created_by="test",
        libraries={},
    )
    return path


@pytest.fixture
def shared():
    with ThreadPoolExecutor(1) as executor:
        clock = count(1).__next__
        yield Shared(
            explanations=Explanations(0, wall=lambda: 1e9),
            clock=lambda: float(clock()),
            wall=lambda: 1e9,
            executor=executor,
            request_id=lambda: "id",
            metrics=Metrics(wall=lambda: 1e9),
            state=MemoryState(100, lambda: 1e9),
            audit=NoAudit(),
            pseudonym_key=bytes(32),
        )


@pytest.fixture
def settings(tmp_path, bundle):
    """Loads a configuration; ``BUNDLE`` in it stands for the bundle's path."""

    def read(text):
        path = tmp_path / "bartizan.yaml"
        path.write_text(textwrap.dedent(text).replace("BUNDLE", str(bundle)))
        return load(path, environment={})

    return read


FULL = """
    http: {head_bytes: 2048, header_count: 9, head_seconds: 1, body_seconds: 2, body_rate: 3,
           idle_seconds: 4, connections: 5}
    endpoints:
      - name: m
        match: /v2/models/m
        upstream: [http://127.0.0.1:1, unix:/run/m.sock]
        timeouts: {connect_seconds: 1, response_seconds: 2, total_seconds: 3, queue_seconds: 4}
        connections: 7
        contract: {inputs: [{name: x, datatype: FP32, shape: [-1, 3], min: -5, max: 5}]}
        bundle: BUNDLE
        mode: monitor
        false_positive_budget: 0.2
        confidence: 0.9
        on_outlier: allow
        block_fraction: 0.25
        limits: {rows_per_second: 10, burst_rows: 20, rows_per_day: 30, rows_per_request: 4,
                 body_bytes: 5KiB, expanded_ratio: 6}
        subnet_limits: {rows_per_second: 100}
        endpoint_limits: {rows_per_day: 1000}
        rules:
          BZ-300: {mode: enforce, exclude: [{client: "ip:192.0.2.1", until: 2030-01-01}]}
          BZ-601: {mode: "off"}
"""


def test_nothing_that_is_configured_is_lost(settings, shared):
    given = settings(FULL)
    bundles = load_bundles(given)
    generation = build(given, shared, bundles)
    [endpoint] = generation.pipeline.endpoints
    policy = endpoint.policy
    assert (policy.mode, policy.failure_mode) == (Mode.MONITOR, FailureMode.ALLOW)
    assert (policy.on_outlier, policy.block_fraction) == (Action.ALLOW, 0.25)
    assert policy.settings["BZ-601"] == RuleSetting(off=True)
    switch = policy.settings["BZ-300"]
    assert (switch.off, switch.mode) == (False, Mode.ENFORCE)
    [exclusion] = switch.exclusions
    assert exclusion.until == 1893456000.0
    assert len(exclusion.client) == 32

    calibration = endpoint.bundle.scorer.calibration
    assert (calibration.alpha, round(calibration.delta, 9)) == (0.2, 0.1)
    assert endpoint.contract.inputs[0].minimum == -5
    assert endpoint.contract.inputs[0].maximum == 5
    assert (endpoint.body_limit, endpoint.expanded_ratio) == (5120, 6)
    ledger = endpoint.limiter._ledger
    assert ledger._quotas == (
        Quota.of(10, 20, 30),
        Quota.of(100, 100, None),
        Quota.of(None, 0, 1000),
    )
    pool = endpoint.bindings[0].pool
    limits = pool._limits
    assert (limits.connections, limits.connect_seconds, limits.response_seconds) == (7, 1, 2)
    assert (limits.total_seconds, limits.queue_seconds) == (3, 4)
    assert [state.address for state in pool.state().addresses] == [
        "127.0.0.1:1",
        "unix:/run/m.sock",
    ]
    wire = listener_limits(given.http)
    assert (wire.head_bytes, wire.header_count, wire.head_seconds) == (2048, 9, 1)
    assert (wire.body_seconds, wire.body_rate, wire.idle_seconds, wire.connections) == (2, 3, 4, 5)


def test_a_budget_that_the_bundle_cannot_keep_says_how_many_rows_it_takes(settings):
    given = settings(
        """
        endpoints:
          - {name: m, match: /v2/models/m, upstream: "http://127.0.0.1:1", bundle: BUNDLE,
             false_positive_budget: 0.0001}
        """
    )
    with pytest.raises(BuildError, match=r"takes 29956 calibration rows; there are \d+"):
        load_bundles(given)


def test_a_bundle_that_does_not_fit_the_contract_is_refused(settings):
    given = settings(
        """
        endpoints:
          - {name: m, match: /v2/models/m, upstream: "http://127.0.0.1:1", bundle: BUNDLE,
             contract: {inputs: [{name: x, datatype: FP32, shape: [-1, 9]}]}}
        """
    )
    with pytest.raises(BuildError, match="9 features per row, not 3"):
        load_bundles(given)


@pytest.mark.parametrize("key", ["real", "junk"])
def test_where_keys_are_trusted_an_unsigned_bundle_is_refused(settings, tmp_path, key):
    public = Ed25519PrivateKey.generate().public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem if key == "real" else b"junk")
    given = settings(
        """
        trusted_keys: [key.pem]
        endpoints:
          - {name: m, match: /v2/models/m, upstream: "http://127.0.0.1:1", bundle: BUNDLE}
        """
    )
    words = "not signed" if key == "real" else "trusted key cannot be read"
    with pytest.raises(BuildError, match=f"endpoint m: .*{words}"):
        load_bundles(given)


def test_a_damaged_bundle_is_refused_with_its_name(settings, tmp_path):
    (tmp_path / "bad.bundle").write_bytes(b"PK\x03\x04nonsense")
    given = settings(
        """
        endpoints:
          - {name: m, match: /v2/models/m, upstream: "http://127.0.0.1:1", bundle: bad.bundle}
        """
    )
    with pytest.raises(BuildError, match=r"endpoint m: .*bad\.bundle: "):
        load_bundles(given)


TWO = """
    endpoints:
      - {{name: a, match: /v2/models/a, upstream: "http://127.0.0.1:1"}}
      - {{name: b, match: /v2/models/b, upstream: "http://127.0.0.1:{port}"}}
"""


def test_a_reload_keeps_what_did_not_change(settings, shared):
    first = build(settings(TWO.format(port=2)), shared, {})
    second = build(settings(TWO.format(port=3)), shared, {}, first)
    a, b = first.pipeline.endpoints
    again, other = second.pipeline.endpoints
    assert again.bindings[0].pool is a.bindings[0].pool
    assert other.bindings[0].pool is not b.bindings[0].pool
    assert again.metrics is a.metrics
    assert first.digest != second.digest


def test_a_reload_keeps_a_learnt_contract_that_still_fits(settings, shared):
    text = """
        endpoints:
          - {{name: m, match: /v2/models/m, upstream: "http://127.0.0.1:1", {more}}}
    """
    metadata = {"name": "x", "datatype": "FP32", "shape": [-1, -1]}
    first = build(settings(text.format(more="")), shared, {})
    [endpoint] = first.pipeline.endpoints
    assert endpoint.contract is None
    learnt = Contract.from_config([metadata])
    [binding] = endpoint.bindings
    binding.codec = binding.codec.with_contract(learnt)
    [same] = build(
        settings(text.format(more="mode: monitor")), shared, {}, first
    ).pipeline.endpoints
    assert same.contract == learnt
    given = settings(text.format(more="bundle: BUNDLE"))
    [scored] = build(given, shared, load_bundles(given), first).pipeline.endpoints
    assert scored.contract == learnt.with_width(FEATURES)
    binding.codec = binding.codec.with_contract(learnt.with_width(FEATURES + 1))
    with pytest.raises(BuildError, match="4 features per row, not 3"):
        build(given, shared, load_bundles(given), first)


def test_what_a_client_has_used_survives_a_reload(settings, shared):
    text = """
        endpoints:
          - {name: m, match: /v2/models/m, upstream: "http://127.0.0.1:1",
             limits: {rows_per_day: 10, rows_per_request: 10}}
    """
    identify = type("Client", (), {"client": "c", "subnet": "s"})()
    [endpoint] = build(settings(text), shared, {}).pipeline.endpoints
    assert endpoint.limiter.take(identify, 10, 1.0) is None
    [endpoint] = build(settings(text), shared, {}).pipeline.endpoints
    assert endpoint.limiter.take(identify, 1, 2.0).rule is rules.CLIENT_DAY


def test_a_model_that_goes_away_takes_no_other_endpoint_with_it(settings, shared):
    text = """
        endpoints:
          - {name: a, match: /v2/models/a, upstream: "http://127.0.0.1:1"}
          - {name: b, match: /v2/models/b, upstream: "http://127.0.0.1:1"}
    """
    generation = build(settings(text), shared, {})
    first, second = generation.watches
    first.problem, first.seen = "", True
    assert generation.problems() == ["b: the model server has not answered yet"]
    second.problem, second.seen = "", True
    assert generation.problems() == []
    second.problem = "away"
    assert generation.problems() == []
    assert [one["problem"] for one in generation.describe()] == [None, "away"]
    first.problem = "away"
    assert generation.problems() == ["a: away", "b: away"]


def test_a_reload_takes_no_endpoint_out_for_a_model_that_is_away(settings, shared):
    text = """
        endpoints:
          - {name: a, match: /v2/models/a, upstream: "http://127.0.0.1:1"}
          - {name: b, match: /v2/models/b, upstream: "http://127.0.0.1:1"}
    """
    previous = build(settings(text), shared, {})
    for watch in previous.watches:
        watch.seen = True
    generation = build(settings(text), shared, {}, previous)
    assert generation.problems()  # the new questions are still to be answered
    generation.watches[0].problem = ""
    assert generation.problems() == []  # b is away, and was seen before
    assert [watch.seen for watch in generation.watches] == [True, True]
    third = '- {name: c, match: /v2/models/c, upstream: "http://127.0.0.1:1"}'
    more = f"{text.rstrip()}\n          {third}\n"
    generation = build(settings(more), shared, {}, generation)
    generation.watches[0].problem = ""
    assert [line[0] for line in generation.problems()] == ["b", "c"]  # c is new


def test_the_endpoints_are_described_for_the_operator(settings, shared):
    given = settings(FULL)
    generation = build(given, shared, load_bundles(given))
    [described] = generation.describe()
    assert described["detectors"] == ["mahalanobis"]
    assert described["contract"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3]}]
    assert described["false_positive_budget"] == 0.2
    assert described["problem"] == "the model server has not answered yet"
    assert generation.problems() == ["m: the model server has not answered yet"]
    assert generation.clients() == {"m": 0}
    assert [state.address for state in generation.upstreams()] == [
        "127.0.0.1:1",
        "unix:/run/m.sock",
    ]
