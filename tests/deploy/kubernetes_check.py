"""Run by the interpreter that has kubernetes-validate: reads ``{"versions": […], "objects": […]}``,
prints a JSON list of what is wrong with any object in any of these versions of Kubernetes.
"""

import functools
import json
import sys

import kubernetes_validate
from kubernetes_validate import utils
from kubernetes_validate.utils import SchemaNotFoundError, ValidationError

# It reads its megabytes of schemas anew for each object.
utils.schema_contents = functools.cache(utils.schema_contents)

given = json.load(sys.stdin)
faults = []
for version in given["versions"]:
    for thing in given["objects"]:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except (ValidationError, SchemaNotFoundError) as error:
            faults.append(f"{version} {thing['kind']} {thing['metadata']['name']}: {error}")
json.dump(faults, sys.stdout)
