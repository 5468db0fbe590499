"""The network and the policies that are run."""

import pathlib

import pytest
from adaptive_cases import SCORERS, Network, make_network, policy_of
from bundle_cases import INPUTS, LADDERS, NAMES

from eenet_jax.runtime.bundle import Bundle, load_bundle
from eenet_jax.runtime.bundle_writer import export_bundle
from eenet_jax.schedulers.policy import Policy


@pytest.fixture(scope="package")
def network() -> Network:
    return make_network()


QUICK = ("eenet", "patience")


@pytest.fixture(
    params=[
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in SCORERS
    ]
)
def policy(request, network) -> Policy:
    return policy_of(request.param, network)


@pytest.fixture(scope="package")
def eenet(network) -> Policy:
    return policy_of("eenet", network)


@pytest.fixture(scope="package")
def folder(network, eenet, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("export") / "new" / "bundle"
    manifest = export_bundle(
        network.backbone,
        network.variables,
        eenet,
        path,
        inputs=INPUTS,
        batch_sizes=(8, 1),
        ladders=LADDERS,
        class_names=NAMES,
        notes={"budget": 2.0},
    )
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    assert [path.name for path in path.parent.iterdir()] == ["bundle"]
    return path


@pytest.fixture(scope="package")
def bundle(folder) -> Bundle:
    return load_bundle(folder)
