"""BentoML with the linear model, under its two names."""

import bentoml
from linear import probabilities


@bentoml.service
class Linear:
    @bentoml.api
    def linear(self, rows: list[list[float]]) -> list[list[float]]:
        return probabilities(rows).tolist()

    @bentoml.api
    def limited(self, rows: list[list[float]]) -> list[list[float]]:
        return probabilities(rows).tolist()
