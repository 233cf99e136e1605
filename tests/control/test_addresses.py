import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurodial.control.addresses import Neurons, Site
from neurodial.control.errors import AddressError


@pytest.mark.parametrize("text", ["encoder.0.resid", "decoder.11.cross", "encoder.embed"])
def test_site_round_trip(text: str) -> None:
    assert str(Site.parse(text)) == text


def test_sites_sort_in_execution_order() -> None:
    names = ["encoder.embed", "encoder.0.attn", "encoder.0.ffn", "encoder.0.resid", "encoder.1.attn"]
    sites = [Site.parse(n) for n in names]
    assert sorted(sites, key=lambda s: s.order) == sites


@pytest.mark.parametrize(
    ("text", "indices"),
    [
        ("decoder.2.ffn[17,902]", (17, 902)),
        ("encoder.0.resid[0-3]", (0, 1, 2, 3)),
        ("encoder.embed[3, 5-6]", (3, 5, 6)),
        ("decoder.1.attn.head[1]", (4, 5, 6, 7)),
        ("decoder.1.resid[*]", tuple(range(16))),
    ],
)
def test_neurons(text: str, indices: tuple[int, ...]) -> None:
    assert Neurons.parse(text, width=16 if "902" not in text else 1024, head_dim=4).indices == indices


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("decoder.2.fnn[1]", "not a neuron address"),
        ("middle.2.ffn[1]", "not a neuron address"),
        ("decoder.2.ffn[]", "not a neuron"),
        ("decoder.2.ffn[5-2]", "backwards"),
        ("decoder.2.ffn[1,1]", "twice"),
        ("decoder.2.ffn[16]", "there is no 16, the last one is 15"),
        ("decoder.2.ffn.head[0]", "only attn and cross have heads"),
        ("decoder.2.ffn[-1]", "not a neuron"),
        ("decoder.2.ffn[0-99999999999]", "there is no"),
    ],
)
def test_bad_addresses_say_what_is_wrong(text: str, told: str) -> None:
    with pytest.raises(AddressError, match=told):
        Neurons.parse(text, width=16, head_dim=4)


@given(st.lists(st.integers(0, 5000), unique=True, min_size=1, max_size=40))
def test_address_round_trip(indices: list[int]) -> None:
    neurons = Neurons(Site.parse("decoder.3.ffn"), tuple(indices))
    assert Neurons.parse(str(neurons)) == neurons
