"""Variants of a bundle: one thing changed, and everything else as true as the writer left it."""

import hashlib
import json
import zipfile

import numpy as np

from detectors.container import npy_header, write_container


def members_of(path):
    """The members of a bundle by name."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rebuilder(path, members):
    """``make(edit)`` writes a variant to ``path``: members replaced (None: left out), the manifest
    edited."""

    def make(edit=None, **changed):
        new = {k: v for k, v in {**members, **changed}.items() if v is not None}
        if edit is not None:
            manifest = json.loads(new["manifest.json"])
            edit(manifest, new)
            new["manifest.json"] = json.dumps(manifest).encode()
        write_container(path, new)
        return path

    return make


def put(name, change):
    """An edit that changes one array and keeps its digest and header true."""

    def edit(manifest, new):
        entry = manifest["arrays"][name]
        header = npy_header(entry["dtype"], tuple(entry["shape"]))
        array = np.frombuffer(new[f"{name}.npy"][len(header) :], dtype=entry["dtype"])
        array = np.ascontiguousarray(change(array.reshape(entry["shape"]).copy()))
        entry["shape"] = list(array.shape)
        entry["dtype"] = array.dtype.str
        entry["sha256"] = hashlib.sha256(array.tobytes()).hexdigest()
        new[f"{name}.npy"] = npy_header(array.dtype.str, array.shape) + array.tobytes()

    return edit


def put_key(path, value):
    """An edit that puts a value into the manifest, at a path with dots."""

    def edit(manifest, _):
        *parents, last = path.split(".")
        for part in parents:
            manifest = manifest[int(part) if part.isdigit() else part]
        manifest[last] = value

    return edit


def at(index, value):
    """A change of one element."""

    def change(array):
        array.flat[index] = value
        return array

    return change
