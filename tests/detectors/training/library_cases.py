"""Estimators to compile: every trainer with the settings that matter, on rows of several shapes."""

from contextlib import contextmanager

import numpy as np
import pytest

from detectors.training import trainers

FOREST = ({}, {"n_estimators": 30}, {"max_features": 0.5, "bootstrap": True}, {"max_samples": 64})
MIXTURE = tuple(
    {"n_components": 3, "covariance_type": kind, "reg_covar": 1e-3}
    for kind in ("full", "tied", "diag", "spherical")
)
NEAR = ({}, {"n_neighbors": 1}, {"n_neighbors": 8, "algorithm": "brute"}, {"max_rows": 40})
MACHINE = ({}, {"gamma": "auto", "nu": 0.1}, {"gamma": 0.01}, {"kernel": "linear"})
COVARIANCE = ({}, {"assume_centered": True})

SETTINGS = {
    "sklearn.ensemble.IsolationForest": FOREST,
    "sklearn.svm.OneClassSVM": MACHINE,
    "sklearn.linear_model.SGDOneClassSVM": ({}, {"nu": 0.1, "fit_intercept": False}),
    "sklearn.covariance.EllipticEnvelope": ({}, {"support_fraction": 0.9}),
    "sklearn.covariance.MinCovDet": COVARIANCE,
    "sklearn.covariance.EmpiricalCovariance": COVARIANCE,
    "sklearn.covariance.LedoitWolf": (*COVARIANCE, {"store_precision": False}),
    "sklearn.covariance.OAS": COVARIANCE,
    "sklearn.covariance.ShrunkCovariance": (*COVARIANCE, {"shrinkage": 0.5}),
    "sklearn.decomposition.PCA": ({}, {"n_components": 1}, {"n_components": 2, "whiten": True}),
    "sklearn.neighbors.LocalOutlierFactor": NEAR,
    "sklearn.neighbors.NearestNeighbors": (*NEAR, {"algorithm": "kd_tree"}),
    "sklearn.mixture.GaussianMixture": MIXTURE,
    "pyod.models.iforest.IForest": (*FOREST, {"contamination": 0.2}),
    "pyod.models.knn.KNN": (*NEAR[:2], {"method": "mean"}, {"method": "median"}),
    "pyod.models.lof.LOF": NEAR[:2],
    "pyod.models.pca.PCA": (
        {},
        {"n_components": 3, "n_selected_components": 2},
        {"standardization": False, "weighted": False},
    ),
    "pyod.models.gmm.GMM": MIXTURE,
    "pyod.models.mcd.MCD": COVARIANCE,
    "pyod.models.ocsvm.OCSVM": MACHINE,
    "pyod.models.ecod.ECOD": ({},),
    "pyod.models.copod.COPOD": ({},),
    "pyod.models.hbos.HBOS": (
        {},
        {"n_bins": "auto"},
        {"n_bins": 30, "alpha": 0.01, "tol": 0.1},
    ),
    "pyod.models.loda.LODA": ({}, {"n_bins": "auto"}, {"n_bins": 2, "n_random_cuts": 20}),
    "pyod.models.cblof.CBLOF": ({}, {"use_weights": True}, {"n_clusters": 5, "alpha": 0.7}),
    "pyod.models.sampling.Sampling": ({}, {"subset_size": 0.5}),
}


def cases(library):
    """(name, settings, features) of every trainer of a library."""
    return [
        pytest.param(name, settings, (30, 4)[index % 2], id=f"{name.rsplit('.', 1)[1]}-{index}")
        for name, variants in SETTINGS.items()
        if name.startswith(f"{library}.")
        for index, settings in enumerate(variants)
    ]


def draw(features, seed=0):
    """Honest rows in clusters and units of their own, and query rows: honest, far, extreme."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(features, features)) / np.sqrt(features)
    unit = np.exp(rng.normal(size=features) * 2)
    centres = rng.normal(size=(4, features)) * 3

    def rows(count):
        return (rng.normal(size=(count, features)) @ mix + rng.choice(centres, count) + 3) * unit

    train = rows(300)
    query = np.vstack(
        [
            rows(30),
            rows(20) * 3,
            rng.normal(size=(20, features)) * unit * 30,
            train[:5],
            np.full((1, features), 1e6),
            np.full((1, features), -1e30),
            np.full((1, features), 1e38),
            np.zeros((1, features)),
        ]
    )
    return train.astype(np.float32), query.astype(np.float32)


@contextmanager
def kept_estimators():
    """The trainers and estimators that are compiled meanwhile, in order."""
    kept = []
    plain = trainers.compile_fitted

    def compile_fitted(trainer, estimator, rows):
        kept.append((trainer, estimator))
        return plain(trainer, estimator, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "compile_fitted", compile_fitted)
        yield kept


def told_apart(rows):
    """(n,) rows near enough for their neighbours to differ in distance, but for rounding."""
    return np.abs(rows).max(axis=1) < 1e7


def same(name, settings, features):
    """(rows compared, rows that score alike, scores) on fresh rows."""
    train, query = draw(features)
    with kept_estimators() as kept:
        [trained] = trainers.fit_detectors(train, [name], 1, {name: settings})
    [(trainer, estimator)] = kept
    if trainer.alone:
        query = query[::3]
    alike = trainer.agrees(estimator, trained.detector, query)
    certain = trainer.certain(estimator, trained.detector, query)
    return int(certain.sum()), len(query), bool(alike.all()), trained
