"""The network and the policies that are run."""

import jax
import pytest
from adaptive_cases import SCORERS, Network, make_network, policy_of

from eenet_jax.schedulers.policy import Policy


@pytest.fixture(scope="package", autouse=True)
def quick_compilation():
    """These programs are large and run for milliseconds."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="package")
def network() -> Network:
    return make_network()


@pytest.fixture(params=SCORERS)
def policy(request, network) -> Policy:
    return policy_of(request.param, network)
