"""Bundles: what goes in comes out, and whatever was tampered with is refused in one way."""

import hashlib
import io
import pickle
import random
import zipfile

import numpy as np
import pytest
from bundle_edits import at, members_of, put, put_key, rebuilder
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from detectors.bundle import BundleError, load_bundle
from detectors.container import write_container
from detectors.signing import SigningError, fingerprint
from detectors.training.estimators import KINDS
from detectors.training.fit import fit, write
from detectors.training.readers import Table

CREATED = "2026-01-01T00:00:00+00:00"


def keys(make=ed25519.Ed25519PrivateKey.generate):
    key = make()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private, public


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return (rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6))).astype(np.float32)


@pytest.fixture(scope="module")
def fitted(rows):
    # Small, for the fuzzing below: five trees would do, but the whole registry must go through.
    return fit(rows, kinds=tuple(KINDS), alpha=0.05, engine="numpy")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, fitted, rows):
    path = tmp_path_factory.mktemp("bundle") / "all.bundle"
    table = Table(rows, ("a", "b", "c", "d", "e", "f"), (6,))
    write(fitted, path, table, created=CREATED)
    return path


@pytest.fixture(scope="module")
def members(bundle):
    return members_of(bundle)


@pytest.fixture
def rebuild(tmp_path, members):
    return rebuilder(tmp_path / "variant.bundle", members)


def test_round_trip(bundle, fitted, rows):
    for engine in ("numpy", "auto"):
        loaded = load_bundle(bundle, engine=engine)
        assert loaded.scorer.names == tuple(KINDS)
        before, after = fitted.scorer.score(rows), loaded.scorer.score(rows)
        np.testing.assert_allclose(after.merged, before.merged, rtol=1e-7, atol=1e-9)
        assert (after.flagged == before.flagged).all()
        assert loaded.scorer.threshold == fitted.scorer.threshold
        assert loaded.manifest.feature_names == list("abcdef")
        assert (loaded.signature, loaded.signer) == ("none", "")


def test_the_digest_is_that_of_the_manifest(bundle, members):
    assert load_bundle(bundle).digest == hashlib.sha256(members["manifest.json"]).hexdigest()


def test_numpy_reads_the_arrays(bundle):
    with np.load(bundle, allow_pickle=False) as arrays:
        loaded = load_bundle(bundle, engine="numpy").scorer
        np.testing.assert_array_equal(arrays["calibration/scores"], loaded.calibration.scores)


def test_the_same_fit_makes_the_same_bytes(tmp_path, rows):
    digests = set()
    for name in ("a", "b"):
        path = tmp_path / name
        write(fit(rows, alpha=0.05, seed=3), path, Table(rows, None, (6,)), created=CREATED)
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    other = write(fit(rows, alpha=0.05, seed=4), path, Table(rows, None, (6,)), created=CREATED)
    assert other.digest not in digests


def test_a_failed_write_leaves_the_old_bundle(tmp_path, monkeypatch):
    path = tmp_path / "x.bundle"
    path.write_bytes(b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_container(path, {"manifest.json": b"{}"})
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bundle"]


class TestSignature:
    @pytest.fixture
    def signed(self, tmp_path, fitted, rows):
        private, public = keys()
        path = tmp_path / "signed.bundle"
        write(fitted, path, Table(rows, None, (6,)), created=CREATED, signing_key=private)
        return path, public

    def test_verified(self, signed):
        path, public = signed
        other = keys()[1]
        loaded = load_bundle(path, trusted_keys=[other, public])
        assert (loaded.signature, loaded.signer) == ("verified", fingerprint(public))

    def test_without_a_key_to_check_it(self, signed):
        assert load_bundle(signed[0]).signature == "unverified"

    def test_by_a_stranger(self, signed):
        with pytest.raises(BundleError, match="not by a trusted key"):
            load_bundle(signed[0], trusted_keys=[keys()[1]])

    def test_missing(self, bundle):
        assert load_bundle(bundle).signature == "none"
        with pytest.raises(BundleError, match="not signed"):
            load_bundle(bundle, trusted_keys=[keys()[1]])

    def test_taken_off(self, signed, tmp_path):
        path, public = signed
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        del parts["manifest.sig"]
        write_container(tmp_path / "stripped.bundle", parts)
        with pytest.raises(BundleError, match="not signed"):
            load_bundle(tmp_path / "stripped.bundle", trusted_keys=[public])

    def test_checked_before_the_manifest_is_parsed(self, signed, tmp_path):
        path, public = signed
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        parts["manifest.json"] = b"[" * 100_000
        forged = tmp_path / "forged.bundle"
        write_container(forged, parts)
        with pytest.raises(BundleError, match="not by a trusted key"):
            load_bundle(forged, trusted_keys=[public])

    @pytest.mark.parametrize("length", [0, 63, 65])
    def test_of_another_length(self, signed, tmp_path, length):
        path, public = signed
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        parts["manifest.sig"] = b"x" * length
        write_container(tmp_path / "f.bundle", parts)
        with pytest.raises(BundleError, match="not by a trusted key"):
            load_bundle(tmp_path / "f.bundle", trusted_keys=[public])

    def test_keys_that_are_none(self, signed, bundle, fitted, rows, tmp_path):
        path, public = signed
        curve = keys(lambda: ec.generate_private_key(ec.SECP256R1()))
        for bad in (b"", b"not a key", curve[1]):
            for given in ([bad], [public, bad]):
                for one in (path, bundle):
                    with pytest.raises(BundleError, match=r"a trusted key (cannot|is not)"):
                        load_bundle(one, trusted_keys=given)
        for bad in (b"", curve[0], keys()[1]):
            with pytest.raises(SigningError, match="signing key"):
                write(fitted, tmp_path / "n", Table(rows, None, (6,)), created="", signing_key=bad)
        assert not (tmp_path / "n").exists()


def _later_root(array):
    array[0] = 1
    return array


def _many_golden(manifest, new):
    for name in ("rows", "scores", "merged"):
        put(f"golden/{name}", lambda a: np.concatenate([a] * 5))(manifest, new)


EDITS = {
    "schema version": (put_key("schema_version", 2), "schema version 2"),
    "the version of agreement": (put_key("schema_version", 3), "schema version 3"),
    "a later version": (put_key("schema_version", 4), "reads 1, 2 and 3"),
    "unknown key": (put_key("surprise", 1), "surprise"),
    "wrong type": (put_key("features", "6"), "features"),
    "feature count": (put_key("features", 7), "."),
    "names": (put_key("feature_names", ["a"]), "feature_names"),
    "unknown kind": (put_key("detectors.0.kind", "oracle"), "oracle"),
    "no detectors": (put_key("detectors", []), "detectors"),
    "a kind twice": (lambda m, _: m["detectors"].append(m["detectors"][0]), "twice"),
    "extra parameter": (put_key("detectors.0.parameters.x", 1), "expected"),
    "negative rest": (put_key("detectors.0.parameters.rest", -1.0), "negative"),
    "k of zero": (put_key("detectors.3.parameters.neighbours", 0), "neighbours"),
    "k too large": (put_key("detectors.3.parameters.neighbours", 10**6), "neighbours"),
    "k not whole": (put_key("detectors.3.parameters.neighbours", 1.5), "neighbours"),
    "gamma": (put_key("detectors.5.parameters.gamma", 0.0), "gamma"),
    "tail shape": (put_key("detectors.0.tail.shape", 0.0), "shape"),
    "threshold": (put_key("calibration.threshold", 1e9), "belong together"),
    "rank": (put_key("calibration.rank", 1000), "belong together"),
    "promise": (put_key("calibration.alpha", 0.0001), "promises too much"),
    "calibration rows": (put_key("calibration.rows", 5), "calibration scores"),
    "array missing": (lambda m, _: m["arrays"].pop("knn/reference"), "not in the manifest"),
    "path in a name": (
        lambda m, n: m["arrays"].update({"../x": m["arrays"]["knn/reference"]}),
        "no name",
    ),
    "dtype": (put_key("arrays.knn/reference.dtype", "|O"), "dtype"),
    "shape": (put_key("arrays.knn/reference.shape", [1, 1]), "dtype and shape"),
    "huge shape": (put_key("arrays.knn/reference.shape", [2**31, 2**31]), "dtype and shape"),
    "digest": (put_key("arrays.knn/reference.sha256", "0" * 64), "changed"),
    "mean not finite": (put("projection/mean", at(0, np.nan)), "not finite"),
    "scale of zero": (put("projection/scale", at(0, 0.0)), "positive"),
    "basis not orthonormal": (put("projection/basis", at(0, 1e9)), "orthonormal"),
    "basis too tall": (put("projection/basis", lambda a: np.vstack([a, a])), "components"),
    "basis transposed dtype": (put("projection/basis", lambda a: a.astype("<f4")), "float64"),
    "weights too many": (put("mahalanobis/weights", lambda a: np.tile(a, 9)), "weights"),
    "root outside": (put("isolation_forest/roots", at(-1, 10**6)), "root"),
    "root not zero": (put("isolation_forest/roots", _later_root), "roots"),
    "child before": (put("isolation_forest/left", at(0, 0)), "leaf"),
    "child negative": (put("isolation_forest/left", at(0, -5)), "child"),
    "child outside": (put("isolation_forest/left", at(0, 10**6)), "child"),
    "child circles": (put("isolation_forest/left", at(1, 0)), "."),
    "feature outside": (put("isolation_forest/feature", at(0, 6)), "feature"),
    "feature negative": (put("isolation_forest/feature", at(0, -1)), "feature"),
    "threshold NaN": (put("isolation_forest/threshold", at(0, np.nan)), "threshold"),
    "path negative": (put("isolation_forest/length", at(0, -1.0)), "negative"),
    "factor": (put("gmm/factors", lambda a: a + 1.0), "triangular"),
    "svm weight": (put("one_class_svm/weights", at(0, -1.0)), "positive"),
    "reference unsorted": (put("knn/reference", lambda a: a[::-1]), "sorted"),
    "knots fall": (put("tail/gmm/knots", lambda a: a[::-1]), "knots"),
    "evidence falls": (put("tail/gmm/evidence", lambda a: a[::-1]), "evidence"),
    "calibration unsorted": (put("calibration/scores", lambda a: a[::-1]), "belong together"),
    "calibration NaN": (put("calibration/scores", at(3, np.nan)), "not finite"),
    "golden scores": (put("golden/scores", lambda a: a * 1.001), "golden"),
    "golden merged": (put("golden/merged", lambda a: a + 0.001), "golden"),
    "golden NaN": (put("golden/scores", lambda a: a * np.nan), "golden"),
    "golden empty": (put("golden/rows", lambda a: a[:0]), "golden"),
    "golden rows too many": (_many_golden, "golden"),
    "golden rows NaN": (put("golden/rows", lambda a: a * np.float32(np.nan)), "finite"),
    "model changed": (put("gmm/means", lambda a: a + 0.01), "golden"),
}


def test_every_edit_is_listed():
    assert len(EDITS) == 57


@pytest.mark.parametrize("name", EDITS)
def test_a_tampered_bundle_is_refused(rebuild, name):
    edit, word = EDITS[name]
    with pytest.raises(BundleError, match=word):
        load_bundle(rebuild(edit), engine="numpy")


def test_an_untouched_rebuild_loads(rebuild):
    load_bundle(rebuild(lambda manifest, new: None), engine="numpy")
    load_bundle(rebuild(put("gmm/means", lambda a: a)), engine="numpy")


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"schema_version": 1}',
        b'{"schema_version": 1, "schema_version": 1}',
        b'{"schema_version": NaN}',
        b'{"schema_version": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_manifest_that_is_none(rebuild, manifest):
    with pytest.raises(BundleError):
        load_bundle(rebuild(**{"manifest.json": manifest}))


def test_members(rebuild, members, tmp_path):
    with pytest.raises(BundleError, match="manifest is missing"):
        load_bundle(rebuild(**{"manifest.json": None}))
    with pytest.raises(BundleError, match="not in the manifest"):
        load_bundle(rebuild(**{"evil.pkl": b"x"}))
    with pytest.raises(BundleError, match="is missing"):
        load_bundle(rebuild(**{"gmm/means.npy": None}))
    with pytest.raises(BundleError, match="too large"):
        load_bundle(rebuild(**{"manifest.json": b" " * (5 << 20)}))
    with pytest.raises(BundleError, match="dtype and shape"):
        data = members["gmm/means.npy"]
        load_bundle(rebuild(**{"gmm/means.npy": data[:5] + b"?" + data[6:]}))


def zipped(method, names=("manifest.json",), data=b"{}", comment=b""):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in names:
            archive.writestr(name, data)
        archive.comment = comment
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: b"", "neither a bundle"),
        (lambda: b"PK\x03\x04", "neither a bundle"),
        (lambda: pickle.dumps({"a": 1}), "pickle"),
        (lambda: pickle.dumps(np.arange(9), protocol=2), "pickle"),
        (lambda: zipped(zipfile.ZIP_DEFLATED, data=b"0" * 10_000_000), "stored"),
        (lambda: zipped(zipfile.ZIP_STORED, comment=b"hello"), "after its end"),
        (lambda: zipped(zipfile.ZIP_STORED) + b"x", "after its end"),
        (lambda: zipped(zipfile.ZIP_STORED)[:-1], "cut short"),
        (lambda: zipped(zipfile.ZIP_STORED, names=["a", "a"]), "twice"),
        (lambda: zipped(zipfile.ZIP_STORED, names=map(str, range(310))), "out of bounds"),
        (lambda: b"x" + zipped(zipfile.ZIP_STORED), "neither a bundle"),
    ],
)
def test_a_container_that_is_none(tmp_path, make, word):
    path = tmp_path / "x.bundle"
    path.write_bytes(make())
    with pytest.raises(BundleError, match=word):
        load_bundle(path)


def test_a_file_beyond_the_cap(tmp_path, monkeypatch):
    monkeypatch.setattr("detectors.container.FILE_CAP", 1000)
    path = tmp_path / "x.bundle"
    path.write_bytes(b"PK\x03\x04" + b"0" * 2000)
    with pytest.raises(BundleError, match="larger than"):
        load_bundle(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_bundle(tmp_path / "none.bundle")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A bundle of few bytes, so that many of its bytes are tried."""
    rows = np.random.default_rng(1).normal(size=(250, 2)).astype(np.float32)
    path = tmp_path_factory.mktemp("small") / "small.bundle"
    fitted = fit(rows, kinds=("mahalanobis", "pca"), alpha=0.05, engine="numpy")
    written = write(fitted, path, Table(rows, None, (2,)), created=CREATED)
    return path.read_bytes(), written.digest


@pytest.mark.parametrize("seed", range(4))
def test_mutated_bytes(tmp_path, small, seed):
    """Flips, cuts, insertions, copies: refused, or (in the zip's idle fields) the same bundle."""
    data, digest = small
    chance = random.Random(seed)
    path = tmp_path / "m.bundle"
    refused = 0
    for _ in range(250):
        new = bytearray(data)
        for _ in range(chance.choice([1, 1, 1, 2, 8])):
            at = chance.randrange(len(new))
            kind = chance.randrange(5)
            if kind <= 1:
                new[at] ^= 1 << chance.randrange(8)
            elif kind == 2:
                new[at] = chance.choice([0, 0xFF, 0x7F, 0x80])
            elif kind == 3:
                del new[at : at + chance.choice([1, 4, 100])]
            else:
                new[at:at] = new[at : at + chance.choice([1, 8, 64])]
        path.write_bytes(new)
        try:
            assert load_bundle(path, engine="numpy").digest == digest
        except BundleError:
            refused += 1
    assert refused > 200


def test_every_byte_of_head_and_directory(tmp_path, small):
    data, digest = small
    path = tmp_path / "m.bundle"
    refused = 0
    places = [*range(120), *range(len(data) - 400, len(data))]
    for place in places:
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            assert load_bundle(path, engine="numpy").digest == digest
        except BundleError:
            refused += 1
    assert refused > len(places) / 2


@pytest.mark.parametrize("seed", range(2))
def test_mutated_manifests_with_true_digests(rebuild, members, seed):
    """A manifest that parses but lies somewhere: one typed error, or a sound bundle."""
    chance = random.Random(seed)
    values = [None, -1, 0, 1, 2**40, 1.5, 1e308, "", "x", [], {}, True, [[]], "knn"]

    def places(value, found):
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(len(value)):
                found.append((value, key))
                places(value[key], found)
        return found

    refused = 0
    for _ in range(60):

        def edit(manifest, _):
            parent, key = chance.choice(places(manifest, []))
            parent[key] = chance.choice(values)

        try:
            load_bundle(rebuild(edit), engine="numpy")
        except BundleError:
            refused += 1
    assert refused > 40


def test_a_system_that_grants_no_executable_memory(bundle, monkeypatch):
    native = pytest.importorskip("detectors.native")

    def refused():
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(native, "load", refused)
    monkeypatch.delenv("BARTIZAN_ENGINE", raising=False)
    with pytest.raises(BundleError, match="BARTIZAN_ENGINE=numpy"):
        load_bundle(bundle)
    monkeypatch.setenv("BARTIZAN_ENGINE", "numpy")
    assert load_bundle(bundle).scorer.engine == "numpy"
