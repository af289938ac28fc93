"""What alibi-detect's detectors exported, as the arrays that the gateway scores with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from detectors.agreement.reconstruction import Reconstruction
from detectors.arrays import Floats, Singles
from detectors.dense import DenseLayers
from detectors.outlier import (
    Autoencoder,
    GaussianMixture,
    IsolationForest,
    LocalOutlierFactor,
    Mahalanobis,
    NearestNeighbours,
    OutlierDetector,
    PrincipalComponents,
    VariationalAutoencoder,
)
from detectors.outlier.projection import Projection
from detectors.training.estimators import RANK_CAP, compile_gmm, compile_isolation_forest

Arrays = Mapping[str, npt.NDArray[Any]]
Scalars = Mapping[str, Any]


class Layout(NamedTuple):
    """How rows were standardised for a neural network.

    Attributes:
        mean: (d,) float64.
        scale: (d,) float64.
        low, high: (d,) float64: the least and the largest of each feature.
    """

    mean: Floats
    scale: Floats
    low: Floats
    high: Floats

    @classmethod
    def of(cls, rows: Floats, mean: Floats, scale: Floats) -> Layout:
        """Of (n, d) rows, their mean and scale."""
        return cls(mean, scale, rows.min(axis=0), rows.max(axis=0))

    def standard(self, rows: Singles | Floats) -> Singles:
        """(n, d) rows less the mean, by the scale."""
        return ((rows - self.mean) / self.scale).astype(np.float32)

    @property
    def bounds(self) -> Singles:
        """(2, d): the least and the largest of each standardised feature."""
        return self.standard(np.stack([self.low, self.high]))

    def reconstruction(self, arrays: Arrays, scalars: Scalars) -> Reconstruction:
        """The second opinion that AdversarialAE's autoencoder gives."""
        layers = _layers("layers", arrays, scalars)
        return Reconstruction(
            mean=self.mean,
            scale=self.scale,
            low=self.low,
            high=self.high,
            widths=layers.widths,
            activations=layers.activations,
            weights=layers.weights,
            biases=layers.biases,
            temperature=float(scalars["temperature"]),
        )


def isolation_forest(arrays: Arrays, scalars: Scalars, layout: Layout) -> IsolationForest:
    ends = np.cumsum(arrays["nodes"])[:-1]
    names = {
        "children_left": "left",
        "children_right": "right",
        "feature": "feature",
        "threshold": "threshold",
        "n_node_samples": "samples",
    }
    split = {name: np.split(arrays[own], ends) for name, own in names.items()}
    trees = [
        SimpleNamespace(tree_=SimpleNamespace(**{name: parts[i] for name, parts in split.items()}))
        for i in range(len(arrays["nodes"]))
    ]
    forest: Any = SimpleNamespace(
        estimators_=trees,
        estimators_features_=[np.arange(layout.mean.size)] * len(trees),
        max_samples_=scalars["max_samples"],
        n_features_in_=layout.mean.size,
    )
    return compile_isolation_forest(forest)


def mahalanobis(arrays: Arrays, _: Scalars, __: Layout) -> Mahalanobis:
    basis = np.ascontiguousarray(arrays["basis"], np.float64)
    projection = Projection(arrays["mean"], np.ones(basis.shape[1]), basis)
    return Mahalanobis(projection, 1.0 / arrays["variances"], 0.0)


def pca(arrays: Arrays, _: Scalars, __: Layout) -> PrincipalComponents:
    left_out = np.ascontiguousarray(arrays["left_out"], np.float64)
    count, features = left_out.shape
    if count <= max(RANK_CAP, features - count):
        projection = Projection(arrays["mean"], np.ones(features), left_out)
        return PrincipalComponents(projection, np.ones(count), 0.0)
    # Fewer are kept than left out: measure those, and subtract.
    kept = np.linalg.svd(left_out)[2][count:]
    projection = Projection(arrays["mean"], np.ones(features), np.ascontiguousarray(kept))
    return PrincipalComponents(projection, np.zeros(len(kept)), 1.0)


def knn(arrays: Arrays, scalars: Scalars, layout: Layout) -> NearestNeighbours:
    reference = arrays["reference"]
    order = np.argsort(reference[:, 0], kind="stable")
    return NearestNeighbours(
        Projection.identity(layout.mean.size),
        np.ascontiguousarray(reference[order]),
        scalars["k"],
    )


def lof(arrays: Arrays, scalars: Scalars, layout: Layout) -> LocalOutlierFactor:
    return LocalOutlierFactor(
        Projection.identity(layout.mean.size),
        arrays["reference"],
        arrays["distances"],
        arrays["densities"],
        scalars["k"],
    )


def gmm(arrays: Arrays, _: Scalars, layout: Layout) -> GaussianMixture:
    mixture: Any = SimpleNamespace(
        weights_=arrays["weights"],
        means_=arrays["means"],
        precisions_cholesky_=arrays["precisions_cholesky"],
    )
    return compile_gmm(Projection.identity(layout.mean.size), mixture)


def autoencoder(arrays: Arrays, scalars: Scalars, layout: Layout) -> Autoencoder:
    layers = _layers("layers", arrays, scalars)
    return Autoencoder(
        layout.mean,
        layout.scale,
        layers.widths,
        layers.activations,
        layers.weights,
        layers.biases,
    )


def variational_autoencoder(
    arrays: Arrays, scalars: Scalars, layout: Layout
) -> VariationalAutoencoder:
    encoder, decoder = (_layers(name, arrays, scalars) for name in ("encoder", "decoder"))
    return VariationalAutoencoder(
        mean=layout.mean,
        scale=layout.scale,
        encoder_widths=encoder.widths,
        encoder_activations=encoder.activations,
        encoder_weights=encoder.weights,
        encoder_biases=encoder.biases,
        decoder_widths=decoder.widths,
        decoder_activations=decoder.activations,
        decoder_weights=decoder.weights,
        decoder_biases=decoder.biases,
        draws=arrays["draws"],
    )


def _layers(name: str, arrays: Arrays, scalars: Scalars) -> DenseLayers:
    return DenseLayers.of(
        [
            (arrays[f"{name}/{index}/weights"], arrays[f"{name}/{index}/bias"], activation)
            for index, activation in enumerate(scalars[name])
        ]
    )


class Compiler(NamedTuple):
    """How one class is compiled, and how close it must come to the library's scores, relative."""

    compile: Callable[[Arrays, Scalars, Layout], OutlierDetector]
    tolerance: float


COMPILERS: Final[dict[str, Compiler]] = {
    "IForest": Compiler(isolation_forest, 1e-9),
    "Mahalanobis": Compiler(mahalanobis, 1e-6),
    "PCA": Compiler(pca, 1e-6),
    "KNN": Compiler(knn, 1e-6),
    "LOF": Compiler(lof, 1e-6),
    "GMM": Compiler(gmm, 1e-9),
    "OutlierAE": Compiler(autoencoder, 1e-4),  # the library computes in float32
    "OutlierVAE": Compiler(variational_autoencoder, 1e-4),
}
