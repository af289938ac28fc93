"""Where the real tools are that validate what is deployed, and what becomes of a missing one."""

import shutil
from pathlib import Path

from absence import absent

REPOSITORY = Path(__file__).resolve().parent.parent

# name: (a path in the checkout, or a command; what installs it)
TOOLS = {
    "helm": (".venv-helm/bin/helm", "make .venv-helm/.installed"),
    "kubectl": (".venv-helm/bin/kubectl", "make .venv-helm/.installed"),
    "kubernetes-validate": (".venv-deploy/bin/kubernetes-validate", "make .venv-deploy/.installed"),
    "hadolint": (".venv-deploy/bin/hadolint", "make .venv-deploy/.installed"),
    "checkov": (".venv-deploy/bin/checkov", "make .venv-deploy/.installed"),
    "yamllint": (".venv-deploy/bin/yamllint", "make .venv-deploy/.installed"),
    "deploy-python": (".venv-deploy/bin/python", "make .venv-deploy/.installed"),  # promql_parser
    "check-jsonschema": (".venv-lint/bin/check-jsonschema", "make .venv-lint/.installed"),
    "actionlint": (".venv-lint/bin/actionlint", "make .venv-lint/.installed"),
    "zizmor": (".venv-lint/bin/zizmor", "make .venv-lint/.installed"),
    "envoy": (".venv-envoy/bin/envoy", "make .venv-envoy/.installed"),
    "kserve-python": (".venv-kserve/bin/python", "make .venv-kserve/.installed"),
    "kubernetes-models": (
        ".venv-npm/node_modules/@kubernetes-models",
        "make .venv-npm/.installed",
    ),
    "node": ("node", "apt-get install nodejs"),
    "promtool": ("promtool", "apt-get install prometheus"),
    "prometheus": ("prometheus", "apt-get install prometheus"),
    "buildah": ("buildah", "apt-get install buildah"),
    "skopeo": ("skopeo", "apt-get install skopeo"),
    "debootstrap": ("debootstrap", "apt-get install debootstrap"),
    "redis-server": ("redis-server", "apt-get install redis-server"),
    "nginx": ("nginx", "apt-get install nginx-light"),
    "systemd-analyze": ("systemd-analyze", "apt-get install systemd"),
    "ip": ("ip", "apt-get install iproute2"),
    "iptables": ("iptables", "apt-get install iptables"),
    "unshare": ("unshare", "apt-get install util-linux"),
    "mlserver": (".venv-mlserver/bin/mlserver", "make .venv-mlserver/.installed"),
}


def tool(name: str) -> str:
    """The path of a tool of ``TOOLS``.

    A tool that is missing skips the test and says what installs it, or fails it: see ``absent``.
    """
    place, installed_by = TOOLS[name]
    path = str(REPOSITORY / place) if "/" in place else shutil.which(place)
    if path and Path(path).exists():
        return path
    absent(place.partition("/")[0], f"{name} is missing: {installed_by}")
    raise AssertionError("an absent tool is used")
