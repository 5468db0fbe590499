"""The files of a bundle, and the checksums that hold them together.

A bundle is a directory: ``manifest.json`` says what everything is and has the SHA-256
of every other file, and ``manifest.sha256`` that of the manifest, as ``sha256sum``
writes it. Nothing here imports JAX.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from eenet_jax.errors import UserError

FORMAT = 1  # of the manifest; another one is not read
MANIFEST, MANIFEST_SUM = "manifest.json", "manifest.sha256"
WEIGHTS, TOKENIZER = "weights.npz", "tokenizer.json"
REMEDY = "copy the whole bundle again, or export it anew"


def write_manifest(folder: pathlib.Path, fields: Mapping[str, Any]) -> None:
    """Writes the manifest of the files in a directory, and its checksum.

    Args:
      folder: The bundle, complete but for these two files.
      fields: What the manifest says beside format and files.
    """
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(folder.iterdir())
    }
    manifest = {"format": FORMAT, **fields, "files": files}
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    (folder / MANIFEST).write_bytes(text.encode())
    line = f"{_digest(folder / MANIFEST)}  {MANIFEST}\n"
    (folder / MANIFEST_SUM).write_bytes(line.encode())


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the manifest once every file is found to be as it was written.

    Raises:
      UserError: If a file is missing or altered, naming it, or the bundle was written
        in another format.
    """
    if not folder.is_dir():
        raise UserError(
            f"--bundle={folder} is no directory; make one with "
            "python -m eenet_jax.runtime.export"
        )
    for name in (MANIFEST_SUM, MANIFEST):
        _check_there(folder / name)
    line = (folder / MANIFEST_SUM).read_bytes()
    if line != f"{_digest(folder / MANIFEST)}  {MANIFEST}\n".encode():
        raise UserError(
            f"{folder / MANIFEST} does not have the checksum in {MANIFEST_SUM}: one of "
            f"the two was altered; {REMEDY}"
        )
    manifest = json.loads((folder / MANIFEST).read_bytes())
    if manifest["format"] != FORMAT:
        raise UserError(
            f"{folder} has format {manifest['format']}, this version reads {FORMAT}; "
            "export it anew with this version"
        )
    files = manifest["files"]
    for name in needed(manifest) - set(files):
        raise UserError(
            f"{folder / MANIFEST} has no checksum of {name}, which it needs; {REMEDY}"
        )
    for name, facts in files.items():
        _check_there(folder / name)
        if _digest(folder / name) != facts["sha256"]:
            raise UserError(
                f"{folder / name} was altered: its SHA-256 is not the manifest's; "
                f"{REMEDY}"
            )
    return manifest


def needed(manifest: Mapping[str, Any]) -> set[str]:
    """Returns the names of the files that a manifest refers to."""
    parts = (*manifest["programs"], *manifest["stages"])
    names = {part["file"] for part in parts if part["file"] is not None}
    tokenizer = manifest["input"].get("tokenizer")
    return names | {WEIGHTS} | ({tokenizer} if tokenizer else set())


def _check_there(path: pathlib.Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing; {REMEDY}")


def _digest(path: pathlib.Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
