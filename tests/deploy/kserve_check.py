"""Run by the interpreter that has KServe's own package: reads a JSON list of its resources, prints
a JSON list of fields that its models do not have, or that hold another type.

The models are what KServe's project generates from its types: their tables say the name and type of
each field, down to those of Kubernetes.
"""

import importlib.util
import json
import re
import sys
import types

# The package itself imports its whole server: its models need none of it.
found = importlib.util.find_spec("kserve")
sys.modules["kserve"] = types.ModuleType("kserve")
sys.modules["kserve"].__path__ = found.submodule_search_locations

import kserve.models  # noqa: E402
import kubernetes.client.models  # noqa: E402

KINDS = {
    "InferenceService": "V1beta1InferenceService",
    "ServingRuntime": "V1alpha1ServingRuntime",
}
# Whatever the cluster's own types say of these, they are checked with the pod.
PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float)}
OPEN = {"object", "V1ObjectMeta", "ResourceQuantity", "IntOrString"}


def faults(value, kind, place):
    if kind in OPEN:
        return
    if kind in PLAIN:
        if not isinstance(value, PLAIN[kind]):
            yield f"{place} is no {kind}"
    elif inner := re.fullmatch(r"[Ll]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{place} is no list"
            return
        for number, item in enumerate(value):
            yield from faults(item, inner[1], f"{place}[{number}]")
    elif inner := re.fullmatch(r"[Dd]ict[(\[]str, (.+)[)\]]", kind):
        if not isinstance(value, dict):
            yield f"{place} is no mapping"
            return
        for key, item in value.items():
            yield from faults(item, inner[1], f"{place}.{key}")
    else:
        model = getattr(kserve.models, kind, None) or getattr(
            kubernetes.client.models, kind.removeprefix("K8sIoApiAppsV1"), None
        )
        if model is None:
            yield f"{place}: there is no model {kind}"
            return
        if not isinstance(value, dict):
            yield f"{place} is no {kind}"
            return
        names = {name: attribute for attribute, name in model.attribute_map.items()}
        for key, item in value.items():
            if key not in names:
                yield f"{place}.{key} is not known to {kind}"
            else:
                yield from faults(item, model.openapi_types[names[key]], f"{place}.{key}")


wrong = []
for thing in json.load(sys.stdin):
    wrong += faults(thing, KINDS[thing["kind"]], thing["metadata"]["name"])
json.dump(wrong, sys.stdout)
