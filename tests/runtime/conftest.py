"""The network and the policies that are run."""

import pytest
from adaptive_cases import SCORERS, Network, make_network, policy_of

from eenet_jax.schedulers.policy import Policy


@pytest.fixture(scope="package")
def network() -> Network:
    return make_network()


@pytest.fixture(params=SCORERS)
def policy(request, network) -> Policy:
    return policy_of(request.param, network)
