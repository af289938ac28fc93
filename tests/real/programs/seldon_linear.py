"""The linear model as Seldon's wrapper of version 1 takes it."""

from linear import probabilities


class seldon_linear:  # noqa: N801 - Seldon looks for the module's name
    def predict(self, rows, names, meta=None):
        return probabilities(rows)
