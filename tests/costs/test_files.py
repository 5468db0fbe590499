"""Costs from files: JSON and CSV, and clear errors."""

import numpy as np
import pytest

from eenet_jax.costs.files import load_costs
from eenet_jax.errors import UserError


@pytest.mark.parametrize(
    ("name", "text", "unit"),
    [
        ("ms.json", "[1, 2.5, 4]", "ms"),
        ("a.json", '{"costs": [1, 2.5, 4], "cost_unit": "joule"}', "joule"),
        ("seconds.csv", "1,2.5,4\n", "seconds"),
        ("seconds.csv", "1\n2.5\n4\n", "seconds"),
        ("seconds.csv", "exit,seconds\n0,1\n1,2.5\n2,4\n", "seconds"),
    ],
)
def test_costs_are_read(tmp_path, name, text, unit):
    (tmp_path / name).write_text(text)
    found = load_costs(tmp_path / name, 3)
    np.testing.assert_array_equal(found.costs, [1, 2.5, 4])
    assert found.unit == unit


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.json", None, "cannot be read"),
        ("c.json", "{", "holds no list of costs"),
        ("c.json", '{"cost": [1]}', "holds no list of costs"),
        ("c.json", "[1, 2]", r"shape \[2\]; the network has 3 exits"),
        ("c.csv", "", r"shape \[0\]"),
        ("c.csv", "1,x,3\n", "holds no list of costs"),
    ],
)
def test_other_files_are_refused(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        load_costs(tmp_path / name, 3)
