"""Bundles are whole or refused, and so is what is to be exported."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from bundle_cases import INPUTS

from eenet_jax.errors import UserError
from eenet_jax.runtime import bundle_files
from eenet_jax.runtime.bundle import load_bundle
from eenet_jax.runtime.bundle_writer import export_bundle


@pytest.fixture
def copy(folder, tmp_path) -> pathlib.Path:
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.mark.parametrize(
    "name",
    ["weights.npz", "batch_8.jaxexport", "stage_1.jaxexport", "manifest.json"],
)
def test_flipped_bytes_and_missing_files_are_refused(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"{name} (was altered|does not have the)"):
        load_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing; copy the whole bundle"):
        load_bundle(copy)


def test_the_manifest_is_checked(copy, tmp_path):
    fields = json.loads((copy / "manifest.json").read_bytes())
    checksum = copy / "manifest.sha256"
    written = checksum.read_bytes()
    checksum.write_bytes(b"0" + written[1:] if written[:1] != b"0" else b"1" + written)
    with pytest.raises(UserError, match="manifest.json does not have the checksum"):
        load_bundle(copy)
    checksum.unlink()
    with pytest.raises(UserError, match="manifest.sha256 is missing"):
        load_bundle(copy)
    del fields["format"], fields["files"]
    (copy / "manifest.json").unlink()
    (copy / "batch_8.jaxexport").unlink()
    bundle_files.write_manifest(copy, fields)
    with pytest.raises(UserError, match="no checksum of batch_8.jaxexport, which it"):
        load_bundle(copy)
    bundle_files.write_manifest(copy, {**fields, "format": 2})
    with pytest.raises(UserError, match="has format 2, this version reads 1"):
        load_bundle(copy)
    with pytest.raises(UserError, match="no directory; make one with"):
        load_bundle(tmp_path / "nowhere")


def test_programs_of_other_devices_and_versions_are_refused(copy):
    fields = json.loads((copy / "manifest.json").read_bytes())
    del fields["files"]
    for name in ("manifest.json", "manifest.sha256"):
        (copy / name).unlink()
    bundle_files.write_manifest(copy, {**fields, "platforms": ["cuda", "tpu"]})
    with pytest.raises(UserError, match="for cuda, tpu, not for cpu; .*=cuda,tpu,cpu"):
        load_bundle(copy)
    for name in ("manifest.json", "manifest.sha256"):
        (copy / name).unlink()
    (copy / "batch_1.jaxexport").write_bytes(b"of a later JAX")
    bundle_files.write_manifest(copy, fields)
    with pytest.raises(UserError, match=r"batch_1.* cannot be read by jax .*anew"):
        load_bundle(copy).predict(np.zeros((1, 2, 2, 3), np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_sizes": ()}, "--batch_sizes= must be one or more"),
        ({"batch_sizes": (0, 4)}, "--batch_sizes=0,4 must be"),
        (
            {"batch_sizes": (4,), "ladders": {8: ((8,),) * 3}},
            "batches of 8, .*=4 lacks; add 8",
        ),
        ({"platforms": ("cpu", "gpu")}, "--platforms=cpu,gpu must be .* cuda, rocm"),
        ({"platforms": ()}, "--platforms= must be"),
        ({"ladders": {4: ((4,),)}, "batch_sizes": (4,)}, "ladders has 1 entries"),
    ],
)
def test_wrong_options_are_refused(network, eenet, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        export_bundle(
            *(network.backbone, network.variables, eenet, tmp_path / "new"),
            **{"inputs": INPUTS, **options},
        )
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced(network, eenet, folder):
    with pytest.raises(UserError, match="bundle is there already; remove it"):
        export_bundle(network.backbone, network.variables, eenet, folder, inputs=INPUTS)
