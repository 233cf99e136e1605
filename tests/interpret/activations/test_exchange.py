"""Files of other tools, both ways; `fixtures/README.md` says how the real tools wrote the fixtures."""

import json
import resource
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from neurodial.control.addresses import Site
from neurodial.control.errors import BadInput, NeurodialWarning, StoreError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.blocks import join_blocks
from neurodial.interpret.activations.extract import Extraction, extract
from neurodial.interpret.activations.left_out import LeftOut
from neurodial.interpret.activations.neurox.files import export_neurox, import_neurox
from neurodial.interpret.activations.neurox.reading import NeuroxFile, residual_sites
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.methods.ranking.expert_units import ExpertUnits
from neurodial.interpret.rankings.expert_units_file import Experts, Watcher
from neurodial.interpret.rankings.ranking_file import Ranking, rank_by
from tests.tiny import load_tiny
from tests.word_tokenizer import tiny_with_text

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def bert() -> LoadedModel:
    """The model whose activations NeuroX wrote."""
    return tiny_with_text("bert")


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return open_corpus(f"text:{FIXTURES / 'neurox.txt'}")


@pytest.mark.parametrize("kind", ["hdf5", "json"])
def test_neurox_files_hold_what_our_own_extraction_gives(
    bert: LoadedModel, corpus: Corpus, tmp_path: Path, kind: str
) -> None:
    store = import_neurox(FIXTURES / f"neurox.{kind}", bert, corpus, tmp_path / "store")
    assert store.sites == residual_sites(bert)
    assert (store.complete, store.rows) == (True, {"encoder word": 12})
    ours = join_blocks(list(extract(bert, corpus, ("none",), Extraction(store.sites))))
    ours = ours.where(np.lexsort((ours.words, ours.examples)))
    theirs = join_blocks(list(store.blocks()))
    assert (theirs.types == ours.types).all()
    for site in store.sites:
        assert theirs.values[site] == pytest.approx(ours.values[site], abs=1e-4)


def test_our_hdf5_is_laid_out_as_theirs(bert: LoadedModel, corpus: Corpus, tmp_path: Path) -> None:
    assert export_neurox(bert, corpus, tmp_path / "ours.hdf5") == (4, (3, 32), LeftOut())
    with h5py.File(tmp_path / "ours.hdf5") as ours, h5py.File(FIXTURES / "neurox.hdf5") as theirs:
        assert sorted(ours) == sorted(theirs)
        for name in theirs:
            assert (ours[name].shape, ours[name].dtype) == (theirs[name].shape, theirs[name].dtype)
            if name != "sentence_to_index":
                assert ours[name][:] == pytest.approx(theirs[name][:], abs=1e-4)
        assert json.loads(ours["sentence_to_index"][0]) == json.loads(theirs["sentence_to_index"][0])


def test_our_json_is_written_as_theirs(bert: LoadedModel, corpus: Corpus, tmp_path: Path) -> None:
    export_neurox(bert, corpus, tmp_path / "ours.json")
    ours = (tmp_path / "ours.json").read_text().splitlines()
    theirs = (FIXTURES / "neurox.json").read_text().splitlines()
    assert len(ours) == len(theirs) == 4
    for a, b in zip(map(json.loads, ours), map(json.loads, theirs), strict=True):
        assert list(a) == list(b)
        assert [token["token"] for token in a["features"]] == [token["token"] for token in b["features"]]
        for mine, other in zip(a["features"], b["features"], strict=True):
            assert [layer["index"] for layer in mine["layers"]] == [layer["index"] for layer in other["layers"]]
            for x, y in zip(mine["layers"], other["layers"], strict=True):
                assert x["values"] == pytest.approx(y["values"], abs=1e-4)
    assert next(words for words, _ in NeuroxFile.open(FIXTURES / "neurox.json")) == ["w5", "w7", "w9"]


TREEBANK = """# text = Le 10 000 et \u200b w5 .
1\tw2\t_\tDET\t_\t_\t_\t_\t_\t_
2\t10 000\t_\tNUM\t_\t_\t_\t_\t_\t_
3\tw4\t_\tCCONJ\t_\t_\t_\t_\t_\t_
4\t\u200b\t_\tX\t_\t_\t_\t_\t_\t_
5\tw6\t_\tNOUN\t_\t_\t_\t_\t_\t_

1\tw2\t_\tDET\t_\t_\t_\t_\t_\t_
"""


@pytest.mark.parametrize("kind", ["hdf5", "json"])
def test_words_that_cannot_be_exported_are_counted_and_the_rest_is_read_back(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forms with spaces, words without tokens, texts beyond the model's length, texts that are not aligned."""
    model = tiny_with_text("bert")  # 48 tokens
    (tmp_path / "t.conllu").write_text(TREEBANK, encoding="utf-8")
    (tmp_path / "t.txt").write_text(f"w2 w3\n{'w4 ' * 60}\nw5 </s> w6\n")
    treebank = open_corpus(f"conllu:{tmp_path / 't.conllu'}?label=upos")
    plain = open_corpus(f"text:{tmp_path / 't.txt'}")
    for corpus, expected in (
        (treebank, {}),
        (plain, {"words_cut": 13, "texts_cut": 1, "examples": [1]}),
    ):
        file = tmp_path / f"{corpus.name}.{kind}"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _, _, left_out = export_neurox(model, corpus, file)
            store = import_neurox(file, model, corpus, tmp_path / f"store-{corpus.name}")
        assert left_out.report() == expected
        assert len([w for w in caught if w.category is NeurodialWarning]) == 2 * bool(expected)
        ours = join_blocks(list(extract(model, corpus, ("none", *corpus.labels), Extraction(store.sites))))
        ours = ours.where(np.lexsort((ours.words, ours.examples)))
        theirs = join_blocks(list(store.blocks()))
        for column in ("examples", "words", "types", "labels"):
            assert (getattr(theirs, column) == getattr(ours, column)).all(), column
        for site in store.sites:
            assert theirs.values[site] == pytest.approx(ours.values[site], abs=1e-5)


def test_files_that_do_not_fit(bert: LoadedModel, corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        NeuroxFile.open(tmp_path / "none.hdf5")
    (tmp_path / "cut.hdf5").write_bytes((FIXTURES / "neurox.hdf5").read_bytes()[:5000])
    with pytest.raises(StoreError, match="not a file of NeuroX activations"):
        NeuroxFile.open(tmp_path / "cut.hdf5")
    (tmp_path / "bad.json").write_text('{"features": 3}\n')
    with pytest.raises(StoreError, match="not a file of NeuroX activations"):
        NeuroxFile.open(tmp_path / "bad.json")
    with pytest.raises(StoreError, match="are not those of"):
        import_neurox(FIXTURES / "neurox.json", load_tiny("bert", num_hidden_layers=1), corpus, tmp_path / "store")
    (tmp_path / "three.txt").write_text("w5 w7 w9\nw22 w40\nw5\n")
    with pytest.raises(StoreError, match="4 sentences, but 3 in the corpus"):
        import_neurox(FIXTURES / "neurox.json", bert, open_corpus(f"text:{tmp_path / 'three.txt'}"), tmp_path / "store")
    (tmp_path / "four.txt").write_text("w5 w7 w9\nw22\nw5 w7 w9\nw33 w2 w21 w8\n")
    with pytest.raises(StoreError, match="sentence 1 has 2 words, but 1 in the corpus"):
        import_neurox(FIXTURES / "neurox.json", bert, open_corpus(f"text:{tmp_path / 'four.txt'}"), tmp_path / "store")


def test_an_export_that_fails_leaves_nothing(
    bert: LoadedModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("neurodial.interpret.activations.neurox.files._json_line", full)
    with pytest.raises(StoreError, match="No space left on device"):
        export_neurox(bert, corpus, tmp_path / "x.json")
    with pytest.raises(StoreError, match=r"NeuroX reads \.hdf5 and \.json"):
        export_neurox(bert, corpus, tmp_path / "x.csv")
    both = (Site.parse("encoder.0.ffn"), Site.parse("encoder.0.resid"))
    with pytest.raises(StoreError, match="one stack and one width"):
        export_neurox(bert, corpus, tmp_path / "x.hdf5", Extraction(both))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["hdf5", "json"])
def test_a_disk_that_fills_up_while_a_file_is_written(
    bert: LoadedModel, corpus: Corpus, tmp_path: Path, kind: str
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # no file may grow further, this one included
    try:
        with pytest.raises(StoreError, match=f"x.{kind}: cannot be written .*nothing is left"):
            export_neurox(bert, corpus, tmp_path / f"x.{kind}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_table_of_expert_units_survives_to_the_byte(tmp_path: Path) -> None:
    table = Experts.load(FIXTURES / "expertise.csv")
    assert (table.concept, table.group, len(table.units)) == ("tense-past", "tense", 19)
    table.save(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (FIXTURES / "expertise.csv").read_bytes()


def test_we_compute_what_the_tool_computes() -> None:
    table = Experts.load(FIXTURES / "expertise.csv")
    draw = np.random.RandomState(1234)
    z = np.concatenate([draw.rand(10, 6), draw.rand(4, 6), draw.randn(5, 6)]).astype(np.float32).T
    method = ExpertUnits().fit(z, np.array([1, 1, 0, 1, 0, 0]))
    ours = Experts.of_method(method, table.layers, table.units.tolist(), "tense-past")
    assert ours.ap == pytest.approx(table.ap, abs=1e-6)
    for name, values in table.values.items():
        assert ours.values[name] == pytest.approx(values, abs=1e-6)


def test_a_table_of_expert_units_ranks_a_models_neurons(tmp_path: Path) -> None:
    model = load_tiny("gpt2")
    ranking = Ranking.load(FIXTURES / "expertise.csv", model)
    addresses = [address for address, _ in ranking.rows]
    assert len(addresses) == 15  # the units of the four-neuron layer are those of no site
    assert set(addresses[:4]) == {"decoder.0.ffn[2]", "decoder.0.ffn[3]", "decoder.0.ffn[4]", "decoder.1.ffn[4]"}
    found = rank_by(model, ranking, [Site.parse("decoder.0.ffn")])
    assert found.named == 10
    with pytest.raises(BadInput, match="none of the layers is a site of"):
        Ranking.load(FIXTURES / "expertise.csv", load_tiny("llama"))
    assert Ranking.load(FIXTURES / "expertise.csv").rows == ()


def test_a_gated_ffn_has_two_layers_for_one_neuron(tmp_path: Path) -> None:
    text = (FIXTURES / "expertise.csv").read_text()
    for module in ("mlp.gate_proj", "mlp.up_proj"):
        text = text.replace("transformer.h.0.mlp.c_fc", f"model.layers.0.{module}", 3)
    (tmp_path / "llama.csv").write_text(text)
    rows = Ranking.load(tmp_path / "llama.csv", load_tiny("llama")).rows
    assert dict(rows)["decoder.0.ffn[0]"] == pytest.approx(0.7222222)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ap,off_mean", "score,off_mean", "e.csv:1: the header is not that of a table"),
        ("0.7222222,0.49676538", "high,0.49676538", "e.csv:2: ap is 'high', not a number"),
        (",1,1,tense-past", ",one,1,tense-past", "e.csv:3: the unit 'one' is not a number"),
        (",2,2,tense-past,tense", ",2", "e.csv:4: 6 columns instead of 9"),
    ],
)
def test_bad_tables_name_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (FIXTURES / "expertise.csv").read_text().replace(old, new, 1)
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(BadInput, match=message):
        Experts.load(tmp_path / "e.csv")


def test_a_unit_beyond_its_layer(tmp_path: Path) -> None:
    text = (FIXTURES / "expertise.csv").read_text().replace("c_fc:0,9,9,", "c_fc:0,99,9,")
    (tmp_path / "e.csv").write_text(text)
    with pytest.raises(BadInput, match=r"has no unit 99: decoder\.0\.ffn is 48 neurons wide"):
        Ranking.load(tmp_path / "e.csv", load_tiny("gpt2"))


def test_discovery_shows_every_unit_to_a_watcher() -> None:
    model, site = load_tiny("gpt2"), Site.parse("decoder.0.ffn")
    draw = np.random.default_rng(0)
    watcher = Watcher(model, "c")
    watcher(ExpertUnits().fit(draw.normal(size=(20, 48)), np.arange(20) % 2), (site,))
    table = watcher.table()
    assert (set(table.layers), table.units.tolist()) == ({"decoder.0.ffn"}, list(range(48)))
    assert table.addresses(model)[0][1] == table.ap.max()
