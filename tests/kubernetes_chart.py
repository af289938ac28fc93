"""The Helm chart, rendered by Helm itself, and what the tests ask of its manifests."""

import functools
import json
import re
import subprocess
from pathlib import Path

import yaml
from deploy_tools import REPOSITORY, tool

CHART = REPOSITORY / "deploy/helm/bartizan"
KUSTOMIZE = REPOSITORY / "deploy/kustomize"
VARIANTS = ("gateway", "sidecar", "kserve", "kserve-knative", "seldon")
NAMESPACE = "inference"
FIREWALL = {"bartizan", "transformer-container"}


def helm(*arguments):
    """Helm's completed process."""
    command = [tool("helm"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def template(variant, overrides=None, *, folder=None, extra=()):
    """``helm template``'s completed process, of a variant's values with ``overrides`` on top.

    Args:
        overrides: values, as a mapping; None removes a key.
        folder: where they are written.
    """
    values = CHART / "ci" / f"{variant}-values.yaml"
    if overrides is not None:
        merged = _merged(yaml.safe_load(values.read_text()), overrides)
        values = Path(folder) / "values.json"
        values.write_text(json.dumps(merged))
    command = ["template", "bartizan", CHART, "--namespace", NAMESPACE, *extra]
    return helm(*command, "--values", values)


def _merged(below, above):
    merged = dict(below)
    for key, value in above.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merged(merged[key], value)
        else:
            merged[key] = value
    return merged


def documents(text):
    """The objects of a YAML stream."""
    return [document for document in yaml.safe_load_all(text) if document]


@functools.cache
def _rendered(variant):
    done = template(variant)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rendered(variant):
    """The objects that a variant's own values render, fresh each time."""
    return documents(_rendered(variant))


def one(objects, kind, name=None):
    """The one object of a kind (and a name)."""
    found = [
        given
        for given in objects
        if given["kind"] == kind and name in (None, given["metadata"]["name"])
    ]
    assert len(found) == 1, f"{len(found)} of {kind} {name or ''}"
    return found[0]


def pod(objects):
    """The pod that serves, as ``(labels, spec)``, whatever makes it."""
    for given in objects:
        if given["kind"] == "Deployment":
            template_ = given["spec"]["template"]
            return template_["metadata"]["labels"], template_["spec"]
        if given["kind"] == "InferenceService":
            predictor = dict(given["spec"]["predictor"])
            labels = predictor.pop("labels")
            # The others are KServe's, not the pod's.
            for key in ("annotations", "minReplicas", "maxReplicas"):
                predictor.pop(key, None)
            return labels, predictor
        if given["kind"] == "SeldonDeployment":
            component = given["spec"]["predictors"][0]["componentSpecs"][0]
            return component["metadata"]["labels"], component["spec"]
    raise AssertionError("nothing makes a pod")


def containers(spec):
    """Every container of a pod, init containers first."""
    return [*spec.get("initContainers", ()), *spec["containers"]]


def firewall(spec):
    """The firewall's container."""
    (found,) = [given for given in containers(spec) if given["name"] in FIREWALL]
    return found


def configuration(objects):
    """The text of the ``bartizan.yaml`` that the firewall's container finds."""
    _labels, spec = pod(objects)
    (volume,) = [v for v in spec["volumes"] if v["name"] == "bartizan-config"]
    return one(objects, "ConfigMap", volume["configMap"]["name"])["data"]["bartizan.yaml"]


def mapped(text, mounts):
    """``text`` with the paths of ``mounts`` (mount path: folder) where they stand for real."""
    paths = "|".join(map(re.escape, sorted(mounts, key=len, reverse=True)))
    return re.sub(paths, lambda found: str(mounts[found[0]]), text)
