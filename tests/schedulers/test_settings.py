"""Schedulers' names with hyper-parameters: how they are read, and what they change."""

import jax
import numpy as np
import pytest

from eenet_jax import schedulers
from eenet_jax.errors import UserError
from eenet_jax.predictions import Predictions, Split
from eenet_jax.schedulers import settings

QUICK_COMPILES = True


def is_read(name: str) -> tuple:
    """What ``schedulers.read_name`` gives."""
    return schedulers.read_name(name)


def predictions(num: int = 96) -> Predictions:
    """Three exits, the later the better, with features and activations."""
    rng = np.random.default_rng(1)

    def draw():
        labels = rng.integers(0, 4, num).astype(np.int32)
        logits = rng.normal(size=(3, num, 4)).astype(np.float32)
        logits[:, np.arange(num), labels] += np.array([[0.5], [1.5], [2.5]])
        features = [logits[k] + rng.normal(size=(num, 4)) for k in range(2)]
        return Split(logits, labels, tuple(f.astype(np.float32) for f in features))

    costs, heads = np.array([1.0, 2.0, 4.0]), np.array([0.2, 0.2, 0.2])
    return Predictions(
        draw(),
        draw(),
        costs,
        head_costs=heads,
        gate_inputs="average",
        activation_mean=np.ones(3, np.float32),
    )


def test_a_name_is_cut_at_plus_and_equals() -> None:
    name = "eenet:nn+exp+decays=1e+3:0+folds=3"
    given = [("decays", "1e+3:0"), ("folds", "3")]
    assert settings.split(name) == ("eenet", "nn+exp", given)
    assert settings.without(name) == "eenet:nn+exp"
    assert settings.without("eenet:folds=3") == settings.without("eenet") == "eenet"


def test_alternatives_are_multiplied() -> None:
    assert settings.expand("lagrangian:units=8/16+stopping+folds=2/3") == [
        f"lagrangian:stopping+units={u}+folds={f}" for u in (8, 16) for f in (2, 3)
    ]
    assert settings.expand("eenet:hidden=4/8") == ["eenet:hidden=4", "eenet:hidden=8"]
    for name in ("eenet", "eenet:published", "predictive_exit:every+beta=6"):
        assert settings.expand(name) == [name]


def test_values_are_read_as_the_recipe_has_them() -> None:
    base, variant, recipe = is_read("lagrangian:gates+units=8+ridges=1:1e+2+decay=0")
    assert (base, variant) == ("lagrangian", "gates")
    default = schedulers.VARIANTS["lagrangian"]["gates"].recipe
    assert recipe == default._replace(units=8, ridges=(1.0, 100.0), decay=0.0)
    assert isinstance(recipe.units, int)
    recipe = is_read("leenet:penalties=0x0.5:1e-3x0")[2]
    assert recipe.penalties == ((0.0, 0.5), (1e-3, 0.0))
    recipe = is_read("predictive_exit:published+start=2+rounds=5+past_last=1")[2]
    assert recipe == (None, 2, 5, True)
    assert is_read("msdnet") == ("msdnet", "", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lagrangian:", "'lagrangian:' is unknown; choose from .*'lagrangian:gates'"),
        ("lagrangian:stop+units=2", "units=2' is unknown; choose from"),
        ("lagrangian:unit=2", "lagrangian has no 'unit'.*ridges.*you mean 'units'"),
        ("lagrangian:stopping+width=1", "lagrangian:stopping has no 'width'; choose"),
        ("eenet:nn+exp+hidden=4", "eenet:nn.exp has no 'hidden'; choose from folds"),
        ("eenet:maxpred+exp+folds=3", "has no hyper-parameters; give the name alone"),
        ("msdnet:folds=3", "msdnet has no hyper-parameters"),
        ("lagrangian:units=2+units=3", "has units twice; alternatives .* units=A/B"),
        ("lagrangian:units=2.5", "units=2.5 must be a whole number of at least 1"),
        ("lagrangian:units=0", "units=0 must be a whole number of at least 1"),
        ("lagrangian:folds=1", "folds=1 must be a whole number of at least 2"),
        ("lagrangian:width=0", "width=0 must be a number above 0"),
        ("lagrangian:decay=-1", "decay=-1 must be a number of at least 0"),
        ("lagrangian:width=nan", "width=nan must be a number above 0"),
        ("lagrangian:width=inf", "width=inf must be"),
        ("lagrangian:ridges=1:", "ridges=1: must be .* several, as in ridges=10:100"),
        ("lagrangian:lowest=4", "lowest=4 must be below highest=3"),
        ("leenet:penalties=1", "penalties=1 must be strengths .*=1e-3x0:1e-3x0.5"),
        ("leenet:penalties=1x1", r"penalties=1x1 must be .* shares in \[0, 1\)"),
        ("eenet:steps=30", "steps=30 must be a multiple of check_every=20"),
        ("predictive_exit:every+start=0", "start=0 must be a whole number of at le"),
        ("predictive_exit:every+rounds=5", "has no 'rounds'; choose from beta, start"),
        ("predictive_exit:published+past_last=no", "past_last=no must be 0 or 1"),
    ],
)
def test_what_cannot_be_is_refused(name, message) -> None:
    with pytest.raises(UserError, match=message):
        is_read(name)


def test_every_scheduler_that_has_a_recipe_is_reached() -> None:
    fields = {
        f"{base}:{variant}": chosen.fields
        for base, variants in schedulers.VARIANTS.items()
        for variant, chosen in variants.items()
    }
    assert set(schedulers.VARIANTS) <= set(schedulers.SCHEDULERS)
    for name in ("eenet:", "eenet:published", "lagrangian:", "leenet:combined"):
        assert len(fields[name]) >= 6, name
    assert fields["eenet:patience+exp"] == ()
    assert fields["predictive_exit:placed"] == ("beta",)


def frontier_of(name: str) -> list:
    """The arrays of a fit."""
    options = {"budgets": np.array([1.5, 2.5]), "key": jax.random.key(0)}
    found = schedulers.fit(name, predictions(), **options)
    return [found.thresholds, *jax.tree.leaves(found.params)]


def same(one, other) -> bool:
    """Whether two fits are equal."""
    if len(one) != len(other):
        return False
    return all(map(np.array_equal, one, other))


@pytest.mark.parametrize(
    "name",
    [
        "lagrangian:stopping+units=4",
        "predictive_exit:prices=7",
        "leenet:alphas=4",
        "eenet:published+restarts=1",
    ],
)
def test_a_hyper_parameter_changes_the_fit(name) -> None:
    assert not same(frontier_of(name), frontier_of(settings.without(name)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "lagrangian:prices=4+folds=2+units=1+steps=1+batch_size=1+decay=0",
        "leenet:alphas=2+folds=2+steps=1+batch_size=1+penalties=0x0",
        "eenet:folds=2+restarts=1+steps=1+score_steps=1+check_every=1+hidden=1+beta=0",
        "eenet:published+restarts=1+steps=1+batch_size=1+beta=0",
        "predictive_exit:prices=4+folds=2+units=1",
    ],
)
def test_the_least_values_fit(name) -> None:
    assert all(np.isfinite(leaf).all() for leaf in frontier_of(name)[1:])
