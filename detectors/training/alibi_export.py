"""Fits alibi-detect's detectors and writes what they hold as arrays.

This file is a program of its own: an interpreter that has alibi-detect runs it, with the path of a
folder, and it imports nothing of this project. In the folder it finds ``request.json`` and
``rows.npz``; it leaves ``result.json`` and ``arrays.npz``. Nothing is pickled on either side, and
no saved detector is ever loaded: such a file names code to execute.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LAST_FREE = (0, 11, 4)
"""The last release under the Apache licence."""
FROZEN = 10**12
"""Rows that a Mahalanobis detector is told it has seen: one more then weighs nothing."""
LIBRARIES = ("alibi-detect", "numpy", "scikit-learn", "scipy", "tensorflow-cpu", "torch")


class Data(NamedTuple):
    """What is fitted on, and what the library's own scores are asked for."""

    rows: Any  # (n, d) float32
    standard: Any  # (n, d) float32: the rows less their mean, by their scale
    probes: Any  # (m, d) float32
    standard_probes: Any  # (m, d) float32
    answers: Any  # (n, classes) float32, or None
    bounds: Any  # (2, d) float32: the least and largest of the standardised rows
    seed: int


class Exported(NamedTuple):
    """A fitted detector: arrays, scalars, and its own scores of the probes."""

    arrays: dict[str, Any]
    scalars: dict[str, Any]
    scores: Any


def isolation_forest(data: Data, settings: dict[str, Any]) -> Exported:
    from alibi_detect.od import IForest

    detector = IForest(threshold=0.0, **settings)
    detector.fit(data.rows)
    forest = detector.isolationforest
    trees = [estimator.tree_ for estimator in forest.estimators_]
    features = [
        np.where(tree.children_left < 0, 0, own[np.maximum(tree.feature, 0)])
        for tree, own in zip(trees, forest.estimators_features_, strict=True)
    ]
    arrays = {
        "nodes": np.array([tree.node_count for tree in trees]),
        "left": np.concatenate([tree.children_left for tree in trees]),
        "right": np.concatenate([tree.children_right for tree in trees]),
        "feature": np.concatenate(features),
        "threshold": np.concatenate([tree.threshold for tree in trees]),
        "samples": np.concatenate([tree.n_node_samples for tree in trees]),
    }
    scalars = {"max_samples": int(forest.max_samples_), "offset": float(forest.offset_)}
    return Exported(arrays, scalars, detector.score(data.probes))


def mahalanobis(data: Data, settings: dict[str, Any]) -> Exported:
    """Learns from the rows once, and is frozen: the class goes on learning from what it scores."""
    from alibi_detect.od import Mahalanobis

    rows = data.rows.astype(np.float64)
    width = rows.shape[1]
    if settings.get("cat_vars") is not None:
        raise ValueError("cat_vars: categorical features cannot be exported")
    detector = Mahalanobis(threshold=0.0, **settings)
    batch = max(2, min(len(rows), (1 << 25) // (width * width)))  # its temporaries: batch * d * d
    for start in range(0, len(rows) - 1, batch):
        detector.score(rows[start : start + batch])
    variances, directions = np.linalg.eigh(detector.C)
    count = min(detector.n_components, width)
    kept, basis = variances[-count:], directions[:, -count:]
    if kept[0] <= 1e-12 * kept[-1] or np.prod(kept) <= 1e-8:
        raise ValueError(
            f"the rows vary too little in {count} components, where alibi-detect scores every row "
            "0: take fewer n_components, or rows in larger units"
        )
    arrays = {"mean": detector.mean, "basis": basis.T, "variances": kept}
    detector.n, detector.max_n = FROZEN, None
    detector.start_clip = 0
    spread = np.sqrt(np.diag(detector.C))
    detector.clip = [
        detector.mean - detector.std_clip * spread,
        detector.mean + detector.std_clip * spread,
    ]
    scores = np.empty(len(data.probes))
    state = detector.mean, detector.C, detector.clip
    for index, row in enumerate(data.probes.astype(np.float64)):
        detector.mean, detector.C, detector.clip = state
        detector.n = FROZEN
        scores[index] = detector.score(row[None])[0]
    return Exported(arrays, {}, scores)


def _double(detector: Any) -> Any:
    """In double precision: distances of float32 lose what lies close together."""
    import torch

    detector.backend._to_tensor = lambda x: torch.as_tensor(np.array(x, np.float64))
    return detector


def _one_number(settings: dict[str, Any]) -> None:
    if not isinstance(settings.get("k"), int) or isinstance(settings.get("k"), bool):
        raise ValueError(  # noqa: TRY004 - one type of error
            "k must be one whole number: ensembles of several are not exported"
        )
    if settings.get("kernel") is not None:
        raise ValueError("kernel: only Euclidean distances are exported")


def pca(data: Data, settings: dict[str, Any]) -> Exported:
    from alibi_detect.od._pca import PCA

    if settings.get("kernel") is not None:
        raise ValueError("kernel: only linear components are exported")
    settings = {"n_components": max(1, data.rows.shape[1] // 4), **settings}
    detector = _double(PCA(**settings))
    detector.fit(data.rows)
    arrays = {
        "mean": detector.backend.x_ref_mean.numpy(),
        "left_out": detector.backend.pcs.numpy().T,
    }
    return Exported(arrays, {}, detector.score(data.probes))


def knn(data: Data, settings: dict[str, Any]) -> Exported:
    from alibi_detect.od._knn import KNN

    settings = {"k": 5, **settings}
    rows = data.rows[: settings.pop("max_rows", None)]
    _one_number(settings)
    detector = _double(KNN(**settings))
    detector.fit(rows)
    arrays = {"reference": detector.backend.x_ref.numpy()}
    return Exported(arrays, {"k": settings["k"]}, detector.score(data.probes))


def lof(data: Data, settings: dict[str, Any]) -> Exported:
    from alibi_detect.od._lof import LOF

    settings = {"k": 20, **settings}
    rows = data.rows[: settings.pop("max_rows", None)]
    _one_number(settings)
    detector = _double(LOF(**settings))
    detector.fit(rows)
    backend = detector.backend
    arrays = {
        "reference": backend.x_ref.numpy(),
        "distances": backend.knn_dists_ref.numpy()[:, 0],
        "densities": backend.ref_inv_avg_reachabilities.numpy()[:, 0],
    }
    return Exported(arrays, {"k": settings["k"]}, detector.score(data.probes))


def gmm(data: Data, settings: dict[str, Any]) -> Exported:
    from alibi_detect.od._gmm import GMM

    given = dict(settings)
    if given.pop("backend", "sklearn") != "sklearn":
        raise ValueError("backend: only sklearn is exported; torch's mixture scores NaN at times")
    own = {name: given.pop(name) for name in ("n_components",) if name in given}
    detector = GMM(backend="sklearn", **own)
    detector.fit(data.rows.astype(np.float64), **given)
    mixture = detector.backend.gmm
    arrays = {
        "weights": mixture.weights_,
        "means": mixture.means_,
        "precisions_cholesky": mixture.precisions_cholesky_,
    }
    return Exported(arrays, {}, detector.score(data.probes.astype(np.float64)))


_TRAINING = ("epochs", "batch_size")


def _net(widths: list[int], activations: list[str]) -> Any:
    import tensorflow as tf

    layers: list[Any] = [tf.keras.layers.InputLayer(input_shape=(widths[0],))]
    for width, activation in zip(widths[1:], activations, strict=True):
        layers.append(tf.keras.layers.Dense(width, activation=activation))
    return tf.keras.Sequential(layers)


def _shape(data: Data, settings: dict[str, Any]) -> tuple[list[int], int, str]:
    """The widths of the hidden layers, of the code, and their activation; taken out of settings."""
    width = data.rows.shape[1]
    hidden = settings.pop("hidden", [int(np.clip(width // 2, 8, 128))])
    code = settings.pop("code", int(np.clip(width // 8, 2, 32)))
    activation = settings.pop("activation", "relu")
    if activation not in ("relu", "tanh", "sigmoid", "linear"):
        raise ValueError(f"activation {activation!r}: one of relu, tanh, sigmoid, linear")
    return list(hidden), int(code), activation


def _fit_net(detector: Any, data: Data, settings: dict[str, Any], **more: Any) -> None:
    import tensorflow as tf

    own = {name: settings.pop(name) for name in _TRAINING if name in settings}
    rate = settings.pop("learning_rate", 1e-3)
    if settings:
        raise ValueError(f"{min(settings)}: not a setting of this detector")
    detector.fit(
        data.standard,
        optimizer=tf.keras.optimizers.Adam(learning_rate=rate),
        verbose=False,
        **own,
        **more,
    )


def _dense(prefix: str, layers: list[Any]) -> dict[str, Any]:
    """Arrays ``<prefix>/<index>/{weights,bias}`` of dense layers."""
    arrays = {}
    for index, layer in enumerate(layers):
        arrays[f"{prefix}/{index}/weights"], arrays[f"{prefix}/{index}/bias"] = (
            part.numpy() for part in (layer.kernel, layer.bias)
        )
    return arrays


def _activations(layers: list[Any]) -> list[str]:
    return [layer.activation.__name__ for layer in layers]


def autoencoder(data: Data, settings: dict[str, Any]) -> Exported:
    from alibi_detect.od import OutlierAE

    settings = dict(settings)
    hidden, code, activation = _shape(data, settings)
    width = data.rows.shape[1]
    encoder = _net([width, *hidden, code], [activation] * len(hidden) + ["linear"])
    decoder = _net([code, *reversed(hidden), width], [activation] * len(hidden) + ["linear"])
    detector = OutlierAE(threshold=0.0, encoder_net=encoder, decoder_net=decoder)
    _fit_net(detector, data, settings)
    layers = [*encoder.layers, *decoder.layers]
    return Exported(
        _dense("layers", layers),
        {"layers": _activations(layers)},
        detector.score(data.standard_probes)[1],
    )


def variational_autoencoder(data: Data, settings: dict[str, Any]) -> Exported:
    import tensorflow as tf
    from alibi_detect.od import OutlierVAE

    settings = dict(settings)
    hidden, code, activation = _shape(data, settings)
    width = data.rows.shape[1]
    own = {name: settings.pop(name) for name in ("samples", "beta") if name in settings}
    deviation = float(settings.pop("deviation", 0.05))
    encoder = _net([width, *hidden], [activation] * len(hidden))
    decoder = _net([code, *reversed(hidden), width], [activation] * len(hidden) + ["linear"])
    detector = OutlierVAE(
        threshold=0.0, encoder_net=encoder, decoder_net=decoder, latent_dim=code, **own
    )
    _fit_net(detector, data, settings, cov_elbo={"sim": deviation})
    heads = detector.vae.encoder
    generator = np.random.default_rng(data.seed)
    draws = generator.standard_normal((detector.samples, code)).astype(np.float32)

    def fixed(shape: Any, **_: Any) -> Any:
        return tf.tile(draws, [shape[0] // len(draws), 1])

    drawn, tf.keras.backend.random_normal = tf.keras.backend.random_normal, fixed
    try:
        scores = detector.score(data.standard_probes)[1]
    finally:
        tf.keras.backend.random_normal = drawn
    arrays = _dense("encoder", encoder.layers) | _dense("decoder", decoder.layers)
    last = len(encoder.layers)
    for part, name in (("kernel", "weights"), ("bias", "bias")):
        both = [getattr(head, part).numpy() for head in (heads.fc_mean, heads.fc_log_var)]
        arrays[f"encoder/{last}/{name}"] = np.concatenate(both, axis=-1)
    scalars = {
        "encoder": [*_activations(encoder.layers), "linear"],
        "decoder": _activations(decoder.layers),
    }
    return Exported({**arrays, "draws": draws}, scalars, scores)


def adversarial_autoencoder(data: Data, settings: dict[str, Any]) -> Exported:
    """Trained through a stand-in for the model, which is itself trained on the model's answers."""
    import tensorflow as tf
    from alibi_detect.ad import AdversarialAE

    if data.answers is None:
        raise ValueError("AdversarialAE needs the model's answers")
    settings = dict(settings)
    hidden, code, activation = _shape(data, settings)
    width, classes = data.rows.shape[1], data.answers.shape[1]
    model = _net([width, 128, 64, classes], ["relu", "relu", "softmax"])
    model.compile(optimizer="adam", loss="kld")
    epochs = int(settings.pop("model_epochs", 30))
    model.fit(data.standard, data.answers, epochs=epochs, batch_size=64, verbose=0)
    encoder = _net([width, *hidden, code], [activation] * len(hidden) + ["linear"])
    decoder = _net([code, *reversed(hidden), width], [activation] * len(hidden) + ["linear"])
    layers = [*encoder.layers, *decoder.layers]
    low, high = data.bounds
    decoder.add(tf.keras.layers.Lambda(lambda row: tf.clip_by_value(row, low, high)))
    own = {name: settings.pop(name) for name in ("temperature",) if name in settings}
    more = {name: settings.pop(name) for name in ("w_model", "w_recon") if name in settings}
    detector = AdversarialAE(
        threshold=0.0, model=model, encoder_net=encoder, decoder_net=decoder, **own
    )
    _fit_net(detector, data, settings, **{"w_recon": 1.0, **more})
    scores, answers, again = detector.score(data.standard_probes, return_predictions=True)
    arrays = _dense("layers", layers)
    arrays["probe_answers"] = model(data.standard_probes).numpy()
    arrays["probe_again"] = np.asarray(again)
    arrays["probe_views"] = detector.ae(data.standard_probes).numpy()
    del answers  # with the temperature, which is the detector's own doing
    scalars = {"layers": _activations(layers), "temperature": float(detector.temperature)}
    return Exported(arrays, scalars, scores)


EXPORTS: dict[str, Callable[[Data, dict[str, Any]], Exported]] = {
    "IForest": isolation_forest,
    "Mahalanobis": mahalanobis,
    "PCA": pca,
    "KNN": knn,
    "LOF": lof,
    "GMM": gmm,
    "OutlierAE": autoencoder,
    "OutlierVAE": variational_autoencoder,
    "AdversarialAE": adversarial_autoencoder,
}
_KERAS = ("OutlierAE", "OutlierVAE", "AdversarialAE")


def is_free(version: str) -> bool:
    """Whether a release is known to be under the Apache licence: 0.11.4 or earlier."""
    found = re.fullmatch(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    return found is not None and tuple(int(part or 0) for part in found.groups()) <= LAST_FREE


def _seed(seed: int, names: list[str]) -> None:
    np.random.seed(seed)  # what the library draws from
    if any(name in _KERAS for name in names):
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.keras.utils.set_random_seed(seed)
        tf.config.experimental.enable_op_determinism()


def main(folder: Path) -> dict[str, Any]:
    """What becomes ``result.json``: the versions, and each detector's scalars or its error."""
    request = json.loads((folder / "request.json").read_text())
    try:
        version = importlib.metadata.version("alibi-detect")
    except importlib.metadata.PackageNotFoundError:
        return {"version": None}
    # Before anything of it is imported.
    if not is_free(version) and not request["licence_held"]:
        return {"version": version, "refused": True}
    with np.load(folder / "rows.npz", allow_pickle=False) as held:
        given = {name: held[name] for name in held.files}
    data = Data(**{"answers": None, **given}, seed=request["seed"])
    arrays: dict[str, Any] = {}
    told = []
    for index, wanted in enumerate(request["detectors"]):
        _seed(request["seed"], [wanted["name"]])
        try:
            made = EXPORTS[wanted["name"]](data, wanted["settings"])
        except (ValueError, TypeError, ImportError) as error:
            return {"version": version, "failed": wanted["name"], "error": str(error)}
        told.append(made.scalars)
        for name, array in {**made.arrays, "scores": made.scores}.items():
            arrays[f"{index}/{name}"] = np.ascontiguousarray(array)
    np.savez(folder / "arrays.npz", **arrays)
    libraries = {}
    for name in LIBRARIES:
        try:
            libraries[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"version": version, "libraries": libraries, "detectors": told}


if __name__ == "__main__":
    where = Path(sys.argv[1])
    (where / "result.json").write_text(json.dumps(main(where)))
