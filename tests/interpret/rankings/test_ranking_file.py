from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput, FingerprintError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.rankings.ranking_file import Ranking, rank_by
from neurodial.interpret.rankings.salience import magnitude, salience
from neurodial.interpret.studies.pruning.sweep import Way, prune_to, sites_to_prune
from tests.control.conftest import make_set
from tests.tiny import load_tiny

FFN, ATTN = Site.parse("decoder.0.ffn"), Site.parse("decoder.1.attn")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_tiny("gpt2")


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_ranking_survives_its_file(loaded: LoadedModel, tmp_path: Path) -> None:
    scores = salience(loaded, "random", [FFN, ATTN], seed=3)
    made = Ranking.of_scores(loaded, scores, "random")
    made.save(tmp_path / "r.csv")
    again = Ranking.load(tmp_path / "r.csv")
    assert again == replace(made, name="r.csv")
    assert (tmp_path / "r.csv").read_text().splitlines()[1] == "address,score"
    found = rank_by(loaded, again, [FFN, ATTN])
    assert (found.named, found.total) == (52, 52)
    np.testing.assert_allclose(found.scores[FFN], scores[FFN])
    np.testing.assert_allclose(found.scores[ATTN], scores[ATTN])


def test_what_is_not_named_comes_last_by_magnitude(loaded: LoadedModel, tmp_path: Path) -> None:
    text = 'address,score\n"decoder.0.ffn[7,9]",-0.5\ndecoder.0.ffn[40],2\ndecoder.1.attn.head[3],1\n'
    found = rank_by(loaded, Ranking.load(written(tmp_path / "r.csv", text)), [FFN])
    order = np.argsort(-found.scores[FFN], kind="stable").tolist()
    assert order[:3] == [40, 7, 9]
    sizes = magnitude(loaded, FFN)
    assert order[3:] == [n for n in np.argsort(-sizes).tolist() if n not in (7, 9, 40)]
    assert (found.named, found.total) == (3, 48)
    heads = rank_by(loaded, Ranking.load(tmp_path / "r.csv"), [ATTN])
    assert heads.scores[ATTN].argmax() == 3


def test_on_a_pruned_model_addresses_stay_those_of_the_original(loaded: LoadedModel, tmp_path: Path) -> None:
    scores = salience(loaded, "random", sites_to_prune(loaded, "ffn"))
    pruned = prune_to(loaded, scores, 0.5, Way("random", round_to=1))
    kept = pruned.original(FFN, range(24))
    made = Ranking.of_scores(loaded, scores, "random")
    found = rank_by(pruned, made, [FFN])
    np.testing.assert_allclose(found.scores[FFN], scores[FFN][list(kept)])
    again = Ranking.of_scores(pruned, {FFN: np.arange(24.0)}, "x")
    assert again.rows[0][0] == f"decoder.0.ffn[{kept[23]}]"


def test_a_neuron_set_is_a_ranking(tmp_path: Path) -> None:
    marian = load_tiny("marian")
    found = make_set(marian.fingerprint)
    found.save(tmp_path / "s.safetensors")
    ranking = Ranking.load(tmp_path / "s.safetensors")
    assert [row[0] for row in ranking.rows] == [address for address, _, _ in found.ranked()]
    ffn = Site.parse("encoder.0.ffn")
    ranked = rank_by(marian, ranking, [ffn])
    assert ranked.scores[ffn].argmax() == next(s for s in found.sites if s.site == ffn).indices[0]
    with pytest.raises(BadInput, match=r"names no neuron of the sites to prune \(attn\)"):
        rank_by(marian, ranking, [Site.parse("encoder.0.attn")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it ranks nothing"),
        ("address,score\n", "it ranks nothing"),
        ("neuron,score\n", "r.csv:1: the header is not address,score"),
        ("address,score\ndecoder.0.ffn[1]\n", "r.csv:2: 1 columns instead of 2"),
        ("address,score\ndecoder.0.ffn[1],high\n", "r.csv:2: 'high' is not a number"),
        ("address,score\ndecoder.0.ffn[1],nan\n", "r.csv:2: the score nan is not finite"),
        ("address,score\nffn 1,2\n", "r.csv:2: 'ffn 1' is not a neuron address"),
        ("address,score\ndecoder.0.ffn[1],1\n\ndecoder.0.ffn[1],2\n", "r.csv:4: .* stands in line 2 already"),
    ],
)
def test_a_bad_file_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Ranking.load(written(tmp_path / "r.csv", text))


def test_another_models_ranking_is_refused(loaded: LoadedModel, tmp_path: Path) -> None:
    foreign = Ranking("r", (("decoder.0.ffn[1]", 1.0),), "other", "sha256:" + "0" * 64)
    with pytest.raises(FingerprintError, match="the ranking r was made for other"):
        rank_by(loaded, foreign, [FFN])
    beyond = Ranking("r", (("decoder.0.ffn[999]", 1.0),))
    with pytest.raises(BadInput, match=r"does not fit .*there is no 999"):
        rank_by(loaded, beyond, [FFN])
    with pytest.raises(BadInput, match="no such ranking"):
        Ranking.load(tmp_path / "missing.csv")


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read"):
        Ranking.load(tmp_path / "r.csv")
