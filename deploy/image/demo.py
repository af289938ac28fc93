"""Trains the demonstration's model and fits its bundle: ``python demo.py FOLDER``.

Also three requests to send: an honest image, one that no model was made for, one that is malformed.
"""

import shutil
import sys
from pathlib import Path

import numpy as np

from loadtest.demo.site import prepare
from loadtest.payloads import infer_json


def main(folder: Path) -> None:
    """Fills a folder that is not there yet."""
    stage = prepare()
    folder.mkdir(parents=True)
    shutil.copy(stage.weights, folder)
    shutil.copy(stage.bundle, folder)
    noise = np.random.default_rng(0).random((1, stage.images.shape[1]), dtype=np.float32)
    (folder / "honest.json").write_bytes(infer_json(stage.images[:1]))
    (folder / "odd.json").write_bytes(infer_json(noise))
    (folder / "malformed.json").write_bytes(infer_json(stage.images[:1]).replace(b"[", b"[[", 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
