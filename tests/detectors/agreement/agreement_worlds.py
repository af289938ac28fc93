"""Small honest worlds to fit agreement detectors on: made up, quick and always the same."""

from functools import cache

import numpy as np

from detectors.agreement.base import Answers
from detectors.agreement.checks import OpinionSubject, Subject
from detectors.training.agreement import fit_agreement, fit_opinions, fit_residual
from detectors.training.agreement_witnesses import FITTERS, OPINION_FITTERS

GRADIENT_KINDS = ("gradient_agreement", "noisy_gradient_agreement")
SHAPES = {"table": None, "wide": None, "image": (8, 9), "colour": (3, 7, 6), "pixels": (6, 7, 2)}
"""``colour`` has its channels first, ``pixels`` last."""


@cache
def world(name):
    """(rows (n, d) float32, labels (n,) int64, classes): classes that a witness can tell."""
    rng = np.random.default_rng(5)
    classes, count = 3, 420
    labels = np.arange(count) % classes
    if SHAPES[name] is None:
        features = 5 if name == "table" else 90
        centres = rng.normal(size=(classes, features)) * 3
        rows = centres[labels] + rng.normal(size=(count, features))
    else:
        stripes = _stripes(SHAPES[name], classes)
        rows = np.clip(stripes[labels] + 0.08 * rng.normal(size=(count, stripes.shape[1])), 0, 1)
    order = rng.permutation(count)
    return rows[order].astype(np.float32), labels[order].astype(np.int64), classes


def _stripes(shape, classes):
    """(classes, d): bars that run across, down and slantwise."""
    if len(shape) == 2:
        planes, height, width = (1, *shape)
    elif shape[0] == 3:
        planes, height, width = shape
    else:
        height, width, planes = shape
    down, across = np.mgrid[0:height, 0:width]
    images = [down % 4 < 2, across % 4 < 2, (down + across) % 5 < 2][:classes]
    stacked = np.stack([np.broadcast_to(image, (planes, height, width)) for image in images])
    if len(shape) == 3 and shape[0] != 3:
        stacked = stacked.transpose(0, 2, 3, 1)
    return stacked.reshape(classes, -1).astype(float)


def told(labels, classes, sure=0.9):
    """Answers of a model that is rather sure of these labels."""
    rest = (1.0 - sure) / (classes - 1)
    return Answers.of_probabilities(np.where(np.eye(classes)[labels] > 0, sure, rest))


@cache
def fitted(name):
    """Every kind that can be fitted on a world's first rows."""
    rows, labels, classes = world(name)
    kinds = [kind for kind in FITTERS if SHAPES[name] or kind not in GRADIENT_KINDS]
    return fit_agreement(
        rows[:340], labels[:340], classes=classes, kinds=kinds, row_shape=SHAPES[name], seed=3
    )


@cache
def regression():
    """(rows, values) of a smooth function, and its fitted detector."""
    rng = np.random.default_rng(8)
    rows = rng.uniform(-1, 1, (400, 4)).astype(np.float32)
    values = np.stack([np.sin(3 * rows[:, 0]) + rows[:, 1] ** 2, rows[:, 2]], axis=1)
    values = values.astype(np.float64)
    (detector,) = fit_residual(rows[:320], values[:320], seed=1)
    return rows, values, detector


def subjects():
    """Every kind on every world, by (kind, world)."""
    made = {}
    for name in SHAPES:
        rows, labels, classes = world(name)
        held, right = rows[340:], labels[340:]
        for detector in fitted(name):
            agreeing, wrong = told(right, classes), told((right + 1) % classes, classes)
            if detector.needs == "probabilities":
                wrong = told(right, classes, sure=0.35)
            made[detector.name, name] = Subject(detector, held, agreeing, wrong)
    rows, values, detector = regression()
    agreeing, wrong = Answers.of_values(values[320:]), Answers.of_values(values[320:] + 1.5)
    made[detector.name, "values"] = Subject(detector, rows[320:], agreeing, wrong)
    return made


def opinion_subjects():
    """Every second opinion on a table and on an image, by (kind, world)."""
    made = {}
    for name in ("table", "image"):
        rows, labels, classes = world(name)
        shape = SHAPES[name]
        for opinion in fit_opinions(rows[:340], list(OPINION_FITTERS), row_shape=shape, seed=2):
            held, right = rows[340:], labels[340:]
            again = np.repeat(right, opinion.copies)
            made[opinion.name, name] = OpinionSubject(
                opinion,
                held,
                told(right, classes),
                told(again, classes),
                told((again + 1) % classes, classes),
            )
    return made
