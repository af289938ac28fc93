"""What PromQL expressions ask for. Run by an interpreter that has ``promql_parser``: a JSON list of
expressions on standard input, a JSON list of ``[[metric, labels], …]`` on standard output. The
labels are those of the selector and of everything around it that names some."""

import json
import sys

import promql_parser


def asked(expression, around=frozenset()):
    """Each metric below an expression, with the labels that it must have."""
    if isinstance(expression, promql_parser.MatrixSelector):
        expression = expression.vector_selector
    if isinstance(expression, promql_parser.VectorSelector):
        matchers = expression.matchers.matchers
        names = [m.value for m in matchers if m.name == "__name__"]
        own = {m.name for m in matchers} - {"__name__"}
        yield expression.name or names[0], sorted(own | around)
    elif isinstance(expression, promql_parser.AggregateExpr):
        yield from asked(expression.expr, around | labels(expression.modifier))
    elif isinstance(expression, promql_parser.BinaryExpr):
        matching = labels(expression.modifier.matching if expression.modifier else None)
        for side in (expression.lhs, expression.rhs):
            yield from asked(side, matching)
    elif isinstance(expression, promql_parser.Call):
        for argument in expression.args:
            yield from asked(argument, around)
    elif hasattr(expression, "expr"):  # brackets, signs, subqueries
        yield from asked(expression.expr, around)


def labels(modifier):
    return frozenset(modifier.labels if modifier else ())


if __name__ == "__main__":
    expressions = json.load(sys.stdin)
    json.dump([list(asked(promql_parser.parse(each))) for each in expressions], sys.stdout)
