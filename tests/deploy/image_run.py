"""A program in the image, as a hardened container would run it, in namespaces of this machine.

Read-only root, a fresh /tmp, user 65532, no capability, no new privileges; the network is ours.
"""

import shlex
from pathlib import Path

from deploy_tools import tool

USER = 65532
CONFIGURATION = "/etc/bartizan"
LOGS = "/var/log/bartizan"


def command(root: Path, environment: list[str], arguments: list[str], **mounts: Path) -> list[str]:
    """What runs ``arguments`` in ``root``.

    Args:
        environment: lines of NAME=VALUE, and nothing else of this process's.
        mounts: ``configuration`` (read-only) and ``logs``, folders of this machine.
    """
    place = shlex.quote(str(root))
    steps = [
        f"mount --rbind {place} {place}",
        f"mount -t proc proc {place}/proc",
        f"mount -t tmpfs -o mode=0755 tmpfs {place}/dev",
        *(
            f"touch {place}/dev/{name} && mount --bind /dev/{name} {place}/dev/{name}"
            for name in ("null", "urandom", "random", "zero")
        ),
        f"mount -t tmpfs -o mode=1777,nosuid,nodev,noexec tmpfs {place}/tmp",
    ]
    if "configuration" in mounts:
        source = shlex.quote(str(mounts["configuration"]))
        steps.append(f"mount --bind -o ro {source} {place}{CONFIGURATION}")
    if "logs" in mounts:
        steps.append(f"mount --bind {shlex.quote(str(mounts['logs']))} {place}{LOGS}")
    steps.append(f"mount -o remount,bind,ro {place}")
    drop = [
        *("/usr/bin/setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"),
        *("--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"),
    ]
    inside = ["chroot", str(root), "/usr/bin/env", "-i", *environment, *drop, *arguments]
    steps.append(f"exec {shlex.join(inside)}")
    script = " && ".join(steps)
    return [tool("unshare"), "--mount", "--propagation=private", "--", "sh", "-c", script]
