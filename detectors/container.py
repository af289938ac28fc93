"""The file that a bundle or a capture is: a zip of stored members, read within bounds.

Nothing is compressed, so nothing expands; nothing is a pickle. Arrays are ``.npy`` members whose
header is compared with the one that the manifest calls for, never parsed.
"""

from __future__ import annotations

import io
import os
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

FILE_CAP: Final = 256 << 20
MEMBER_CAP: Final = 300
_DIRECTORY_CAP: Final = 64 << 10
_END: Final = struct.Struct("<4s4H2LH")  # the zip's end record, without a comment
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


class ContainerError(ValueError):
    """The file is not such a container. Says why."""


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The header of a version 1.0 ``.npy`` file, padded to a multiple of 64 bytes."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape!r}, }}"
    padded = text.ljust((len(text) + 11 + 63) // 64 * 64 - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode("ascii")


def pack_members(members: Mapping[str, bytes]) -> bytes:
    """The members in order as a container. The bytes depend on the members only."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return buffer.getvalue()


def write_container(path: Path, members: Mapping[str, bytes]) -> None:
    """Writes the members in order, atomically: readers see the old file or the new one.

    Raises:
        OSError: if it cannot be written; what was there before stays.
    """
    data = pack_members(members)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)  # mkstemp is stricter than what was asked for
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_container(path: Path) -> dict[str, bytes]:
    """All members by name.

    Raises:
        ContainerError: and nothing else, whatever the bytes.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        return unpack_members(file.read(FILE_CAP + 1))


def unpack_members(data: bytes) -> dict[str, bytes]:
    """All members of a container by name.

    Raises:
        ContainerError: and nothing else, whatever the bytes.
    """
    if len(data) > FILE_CAP:
        raise ContainerError(f"larger than {FILE_CAP >> 20} MiB")
    _check_end(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _members(archive, len(data))
    except (zipfile.BadZipFile, ValueError, EOFError, RuntimeError, OSError, struct.error) as error:
        if isinstance(error, ContainerError):
            raise
        raise ContainerError(f"the container is damaged: {error}") from error


def _check_end(data: bytes) -> None:
    """The end record bounds the directory before zipfile reads it."""
    if data[:1] == b"\x80":  # PROTO, the first opcode of every pickle since protocol 2
        raise ContainerError("this is a pickle; pickles are never loaded")
    if data[:4] != b"PK\x03\x04" or len(data) < _END.size:
        raise ContainerError("this is neither a bundle nor a capture")
    magic, disk, start_disk, here, total, size, offset, comment = _END.unpack(data[-_END.size :])
    if magic != b"PK\x05\x06" or comment:
        raise ContainerError("the container is cut short or has bytes after its end")
    if disk or start_disk or here != total or total > MEMBER_CAP or size > _DIRECTORY_CAP:
        raise ContainerError("the container's directory is out of bounds")
    if offset + size + _END.size != len(data):
        raise ContainerError("the container's directory is not where it should be")


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    infos = archive.infolist()
    for info in infos:
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise ContainerError(f"{info.filename!r} is compressed; members are stored")
        if info.flag_bits or info.filename in members:
            raise ContainerError(f"{info.filename!r} is encrypted, flagged or there twice")
        if sum(map(len, members.values())) + info.file_size > size:  # members that overlap
            raise ContainerError("the members add up to more than the file")
        members[info.filename] = archive.read(info)
    return members
