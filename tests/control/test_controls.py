import json
from typing import Any

import pytest

from neurodial.control.controls import parse_controls
from neurodial.control.errors import ControlError


def test_the_designs_example_parses() -> None:
    raw = json.loads("""[
        {"set": "tense", "to": "past"},
        {"set": "number", "to": "plural", "top": 50, "op": "shift", "strength": 1.5, "where": "concept"},
        {"neurons": "decoder.2.ffn[17,902]", "op": "amplify", "value": 2.5, "phase": "generation", "steps": [0, 8],
         "where": {"neuron": "decoder.1.resid[5]", "above": 0.3}}]""")
    controls = parse_controls(raw)
    assert [c.set for c in controls] == ["tense", "number", None]
    assert controls[2].steps == (0, 8)


def test_parsed_controls_parse_again() -> None:
    controls = parse_controls([{"set": "tense", "to": "past"}])
    assert parse_controls(list(controls)) == controls
    assert parse_controls(None) == ()


NAN = float("nan")


@pytest.mark.parametrize(
    ("raw", "param"),
    [
        ({"set": "tense"}, "controls"),
        ([{}], "controls[0]"),
        ([{"set": "t"}, {"set": "t", "neurons": "decoder.0.ffn[1]"}], "controls[1]"),
        ([{"set": "t", "colour": 1}], "controls[0].colour"),
        ([{"set": "t", "strength": NAN}], "controls[0].strength"),
        ([{"set": "t", "strength": float("inf")}], "controls[0].strength"),
        ([{"set": "t", "strength": "2"}], "controls[0].strength"),
        ([{"neurons": "decoder.0.ffn[1]", "op": "clamp"}], "controls[0]"),
        ([{"neurons": "decoder.0.ffn[1]", "op": "map", "value": 1.0}], "controls[0]"),
        ([{"neurons": "decoder.0.ffn[1]", "op": "clamp", "value": NAN}], "controls[0].value"),
        ([{"neurons": "decoder.0.ffn[1]", "op": "spin", "value": 1.0}], "controls[0].op"),
        ([{"set": "t", "steps": [4, 2]}], "controls[0]"),
        ([{"set": "t", "top": 0}], "controls[0].top"),
        ([{"set": "t", "where": {"neuron": "decoder.0.ffn[1]"}}], "controls[0].where"),
        ([{"set": "t", "where": {"neuron": "decoder.0.ffn[1]", "above": NAN}}], "controls[0].where.above"),
    ],
)
def test_bad_controls_name_the_field(raw: Any, param: str) -> None:
    with pytest.raises(ControlError) as caught:
        parse_controls(raw)
    assert caught.value.param == param
    assert caught.value.message.startswith(param)
