"""The table input: columns side by side, named, with ports to match."""

import json

import numpy as np
import pytest

from mainstem.contracts import State
from mainstem.modalities import table
from mainstem.schema import Column

COLUMNS = (Column("age", "number"), Column("city", "category"), Column("when", "date"))
VALUES = {"age": [1.0, 3.0, None], "city": ["x", None, "x"], "when": [0.0, 86_400.0, None]}


def test_encodes_and_names_every_column():
    state = table.fit(COLUMNS, VALUES, {"scaling": "minmax"})
    arrays, _ = table.encode(VALUES, {}, state)
    assert table.feature_names(state)[:2] == ["age", "when.days"]
    assert table.feature_names(state)[-1] == "city"
    assert state.json["categories"] == [{"name": "city", "values": ["x"]}]
    assert arrays["numbers"].dtype == np.float64
    assert arrays["numbers"][:2, 0].tolist() == [0, 1]
    assert np.isnan(arrays["numbers"][2]).all()
    assert arrays["categories"].tolist() == [[2], [0], [2]]
    for port in table.ports(state):
        assert arrays[port.name].shape == (3, int(port.axes[1]))
        assert arrays[port.name].dtype == port.dtype


def test_state_survives_json_and_encodes_the_same():
    state = table.fit(COLUMNS, VALUES, {})
    again = State(json.loads(json.dumps(state.json)))
    for key, array in table.encode(VALUES, {}, state)[0].items():
        np.testing.assert_array_equal(array, table.encode(VALUES, {}, again)[0][key])


@pytest.mark.parametrize(("kept", "key"), [(COLUMNS[:1], "numbers"), (COLUMNS[1:2], "categories")])
def test_a_key_of_no_width_is_left_out(kept, key):
    state = table.fit(kept, VALUES, {})
    assert list(table.encode(VALUES, {}, state)[0]) == [key]
    assert [port.name for port in table.ports(state)] == [key]


def test_a_columns_own_scaling_wins():
    columns = (Column("a", "number", {"scaling": "none"}), Column("b", "number"))
    values = {"a": [1.0, 5.0], "b": [1.0, 5.0]}
    assert table.encode(values, {}, table.fit(columns, values, {"scaling": "minmax"}))[0]["numbers"].tolist() == [[1, 0], [5, 1]]
