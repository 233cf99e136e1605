from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from neurodial.control.addresses import Site
from neurodial.control.errors import CorpusError
from neurodial.control.models.capture import capture
from neurodial.control.models.lineage import KeptNeurons, Lineage
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.calibration import calibrate_model
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.corpora.readers import open_corpus

TEXTS = ("She opens the door.", "The tall boy likes the book.", "He saw the house.")


def corpus(*, parallel: bool) -> Corpus:
    examples = [
        Example(i, Sentence.of(text), target=Sentence.of(TEXTS[i - 1]) if parallel else None)
        for i, text in enumerate(TEXTS)
    ]
    return Corpus.of("three sentences", examples)


def alone(loaded: LoadedModel, source: str, target: str) -> dict[Site, np.ndarray]:
    """Activations of one unpadded sentence."""
    batch = loaded.tokenizer([source], return_tensors="pt")
    ids = loaded.tokenizer(text_target=[target], return_tensors="pt")["input_ids"]
    start = torch.tensor([[loaded.model.config.decoder_start_token_id]])
    with torch.inference_mode(), capture(loaded.model, loaded.sites.sites) as recorded:
        loaded.model(**batch, decoder_input_ids=torch.cat([start, ids[:, :-1]], dim=1))
        return {site: x[0].numpy() for site, x in recorded.items()}


def test_statistics_are_those_of_the_unpadded_sentences(loaded: LoadedModel) -> None:
    found = calibrate_model(loaded, corpus(parallel=True))
    each = [alone(loaded, text, TEXTS[i - 1]) for i, text in enumerate(TEXTS)]
    assert set(found.sites) == set(loaded.sites.sites)
    assert found.decoder == "reference"
    for site in loaded.sites.sites:
        rows = np.concatenate([values[site] for values in each])
        assert found.count(site) == len(rows)
        np.testing.assert_allclose(found.mean(site), rows.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(found.std(site), rows.std(axis=0), atol=1e-5)


def test_special_tokens_can_be_left_out(loaded: LoadedModel) -> None:
    found = calibrate_model(loaded, corpus(parallel=True), tokens="words")
    each = [alone(loaded, text, TEXTS[i - 1])[Site.parse("encoder.0.ffn")][:-1] for i, text in enumerate(TEXTS)]
    rows = np.concatenate(each)  # the end token is the only special one
    assert (found.tokens, found.count(Site.parse("encoder.0.ffn"))) == ("words", len(rows))
    np.testing.assert_allclose(found.mean(Site.parse("encoder.0.ffn")), rows.mean(axis=0), atol=1e-5)


def test_without_targets_the_decoder_runs_on_the_models_own_output(loaded: LoadedModel) -> None:
    found = calibrate_model(loaded, corpus(parallel=False))
    assert found.decoder == "own"
    own = calibrate_model(loaded, corpus(parallel=True), decoder="own")
    site = Site.parse("decoder.1.ffn")
    np.testing.assert_array_equal(found.mean(site), own.mean(site))
    with pytest.raises(CorpusError, match="no target side"):
        calibrate_model(loaded, corpus(parallel=False), decoder="reference")


def test_a_pruned_model_is_measured_by_original_numbers(loaded: LoadedModel) -> None:
    site, width = Site.parse("encoder.0.ffn"), 80
    kept = KeptNeurons(width, tuple(range(16, 80)))
    lineage = Lineage.derive(
        None, fingerprint="sha256:a", name="a", step={"kind": "pruned"}, weights_changed=False, kept={site: kept}
    )
    whole = calibrate_model(loaded, corpus(parallel=True))
    found = calibrate_model(replace(loaded, lineage=lineage), corpus(parallel=True))
    assert np.isnan(found.mean(site)[:16]).all()
    np.testing.assert_array_equal(found.mean(site)[16:], whole.mean(site))


def test_the_draw_depends_on_the_seed_alone(pairs_file: Path) -> None:
    opened = open_corpus(f"parallel:{pairs_file}?source=now&target=to_now")
    one, again, other = opened.drawn(10), opened.drawn(10), opened.drawn(10, seed=1)
    assert one.size == 10
    assert one.digest == again.digest != other.digest
    assert opened.drawn(10_000) is opened
