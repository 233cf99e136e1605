"""Renewing a set's evidence leaves everything else as it is."""

import numpy as np
import pytest

from neurodial.control.errors import BadInput
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.discover import Discovery, discover
from tests.experiments.demo_en_es.tense_set import renewed


def test_evidence_is_renewed_and_nothing_else(tiny_marian: LoadedModel) -> None:
    corpus = open_corpus("grammar:tense?count=120")
    found = discover(tiny_marian, corpus, Discovery("tense", top=8, evidence="none"))
    again = renewed(tiny_marian, corpus, found)
    assert {"causal", "significance", "stability", "probe"} <= set(again.evidence) - set(found.evidence)
    assert again.evidence["readout"] == found.evidence["readout"]
    before, after = found.sites[0], again.sites[0]
    np.testing.assert_array_equal(before.indices, after.indices)
    np.testing.assert_array_equal(before.maps["past"].weight, after.maps["past"].weight)
    assert again.readouts == found.readouts
    with pytest.raises(BadInput, match="was made of another corpus"):
        renewed(tiny_marian, open_corpus("grammar:tense?count=121"), found)
