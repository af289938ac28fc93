"""Processes that cannot import what bundles are fitted with: a folder for their ``PYTHONPATH``."""

import os

BLOCKED = ("sklearn", "pyod", "scipy", "pandas", "pyarrow", "joblib", "matplotlib")

_SITE = f"""
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError(name + " is not there")


sys.meta_path.insert(0, Blocked())
"""


def blocking_folder(folder):
    """Python runs this file of the folder before anything else."""
    (folder / "sitecustomize.py").write_text(_SITE)
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
