"""The activation store: what was extracted is what a run gives, a stop costs nothing, a stranger is refused."""

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurodial.control.addresses import Site
from neurodial.control.errors import CorpusError, FingerprintError, StoreError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations import storing
from neurodial.interpret.activations.blocks import Block, join_blocks
from neurodial.interpret.activations.extract import Extraction, extract, extract_window
from neurodial.interpret.activations.store import ActivationStore
from neurodial.interpret.activations.storing import extract_to_store
from neurodial.interpret.corpora.corpus import Corpus
from neurodial.interpret.corpora.readers import open_corpus
from neurodial.interpret.discovery.discover import Discovery, discover

SITES = (Site.parse("encoder.1.resid"), Site.parse("encoder.0.ffn"), Site.parse("decoder.1.resid"))
PLAN = Extraction(SITES, ("word", "piece"), batch_tokens=256, window=40)


@pytest.fixture(scope="module")
def corpus(pairs_spec: str) -> Corpus:
    return open_corpus(pairs_spec)


@pytest.fixture
def store(loaded: LoadedModel, corpus: Corpus, tmp_path: Path) -> ActivationStore:
    return extract_to_store(loaded, corpus, PLAN, tmp_path / "store")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def joined(blocks: Iterator[Block], stack: str, level: str) -> Block:
    joint = join_blocks([block for block in blocks if (block.stack, block.level) == (stack, level)])
    return joint.where(np.lexsort((np.arange(len(joint)), joint.words, joint.examples)))


@pytest.mark.parametrize(("stack", "level"), [("encoder", "word"), ("encoder", "piece"), ("decoder", "word")])
def test_a_store_holds_what_extraction_gives(
    loaded: LoadedModel, corpus: Corpus, store: ActivationStore, stack: str, level: str
) -> None:
    fresh = joined(extract(loaded, corpus, ("none", *corpus.labels), PLAN), stack, level)
    kept = joined(ActivationStore.open(store.folder).blocks(), stack, level)
    for column in ("examples", "words", "types", "labels", "pairs", "splits"):
        assert (getattr(kept, column) == getattr(fresh, column)).all()
    assert {site: (kept.values[site] == x).all() for site, x in fresh.values.items()} == dict.fromkeys(
        fresh.values, True
    )
    assert store.rows[f"{stack} {level}"] == len(fresh)


def test_only_what_is_asked_for_is_read(store: ActivationStore) -> None:
    blocks = list(store.blocks((SITES[1],), ("word",)))
    assert {(block.stack, block.level, *block.values) for block in blocks} == {("encoder", "word", SITES[1])}
    with pytest.raises(StoreError, match=r"the site encoder\.0\.resid is not stored, but encoder\.1"):
        list(store.blocks((Site.parse("encoder.0.resid"),)))
    with pytest.raises(StoreError, match="the level sentence is not stored"):
        list(store.blocks(levels=("sentence",)))


@pytest.mark.parametrize("method", ["mean-difference", "linear-probe"])
def test_discovery_from_a_store_gives_the_same_set_without_running_the_model(
    loaded: LoadedModel, corpus: Corpus, store: ActivationStore, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Discovery("tense", method, sites=("encoder.1.resid", "encoder.0.ffn"), top=10, evidence="none")
    ran = discover(loaded, corpus, job)
    monkeypatch.setattr("neurodial.interpret.gathering.gather.stream", None)
    read = discover(loaded, store.opened_corpus(), job, store=store)
    assert read.sites[0].indices.tolist() == ran.sites[0].indices.tolist()
    assert read.sites[0].scores == pytest.approx(ran.sites[0].scores, abs=1e-4)
    assert read.readouts[0].weights == pytest.approx(ran.readouts[0].weights, rel=0.02, abs=0.05)  # fitted


def test_a_stopped_run_goes_on_where_it_was(
    loaded: LoadedModel, corpus: Corpus, store: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    true = extract_window

    def stopping(loaded: LoadedModel, window: list[Any], *rest: Any) -> Iterator[Block]:
        ran.append(window[0].number)
        for number, block in enumerate(true(loaded, window, *rest)):
            if len(ran) == 4 and number == 2:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(storing, "PART_VALUES", 2000)  # several parts a window: some lie there when the run is stopped
    monkeypatch.setattr(storing, "extract_window", stopping)
    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        extract_to_store(loaded, corpus, PLAN, folder)
    begun = ActivationStore.open(folder)
    assert (begun.windows, begun.examples, begun.complete) == (3, 120, False)
    with pytest.raises(StoreError, match="only 120 of 250 examples are extracted"):
        begun.check(loaded)
    done = extract_to_store(loaded, corpus, PLAN, folder)
    assert ran[4:] == [120, 160, 200, 240]  # nothing that was done is done again
    assert done.complete
    assert {path.name for path in folder.iterdir()} == {"store.json", *done.parts}
    for stack, level in (("encoder", "piece"), ("decoder", "word")):
        a, b = joined(done.blocks(), stack, level), joined(store.blocks(), stack, level)
        assert (a.examples == b.examples).all()
        assert all((a.values[site] == b.values[site]).all() for site in a.values)


@pytest.mark.parametrize("writes", [0, 1, 9])
def test_a_full_disk_costs_one_line_and_leaves_whole_windows(
    loaded: LoadedModel, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    true, count = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal count
        count += 1
        if count > writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        true(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    folder = tmp_path / "full"
    with pytest.raises(StoreError, match=r"full: the disk is full after \d+ of 250 examples") as caught:
        extract_to_store(loaded, corpus, PLAN, folder)
    assert "\n" not in caught.value.message
    if writes < 9:  # no window is done
        assert not folder.exists()
        return
    left = ActivationStore.open(folder)
    assert {path.name for path in folder.iterdir()} == {"store.json", *left.parts}
    monkeypatch.setattr(os, "fsync", true)
    assert extract_to_store(loaded, corpus, PLAN, folder).complete


def test_another_model_corpus_or_setting_is_refused(
    loaded: LoadedModel, corpus: Corpus, store: ActivationStore, tmp_path: Path
) -> None:
    before = contents(store.folder)
    stranger = replace(loaded, fingerprint="sha256:" + "0" * 64)
    other = open_corpus("grammar:tense?count=50")
    with pytest.raises(FingerprintError, match="the activations are of"):
        store.check(stranger)
    with pytest.raises(FingerprintError, match="the activations are of"):
        extract_to_store(stranger, corpus, PLAN, store.folder)
    with pytest.raises(StoreError, match="of the corpus"):
        extract_to_store(loaded, other, PLAN, store.folder)
    with pytest.raises(StoreError, match="begun with words='last', not 'mean'"):
        extract_to_store(loaded, corpus, replace(PLAN, words="mean"), store.folder)
    with pytest.raises(StoreError, match="extracted with words=last, not first"):
        discover(loaded, corpus, Discovery("tense", "probeless", words="first", evidence="none"), store=store)
    assert contents(store.folder) == before
    with pytest.raises(StoreError, match="cannot be stored"):
        extract_to_store(loaded, corpus, PLAN, tmp_path / "x", dtype="int8")
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match="it holds something else"):
        extract_to_store(loaded, corpus, PLAN, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_half_precision_and_fewer_tokens(
    loaded: LoadedModel, corpus: Corpus, store: ActivationStore, tmp_path: Path
) -> None:
    half = extract_to_store(loaded, corpus, PLAN, tmp_path / "half", dtype="float16", tokens="labelled")
    kept = joined(half.blocks(), "encoder", "word")
    whole = joined(store.blocks(), "encoder", "word")
    whole = whole.where(whole.labels > 0)
    assert (kept.examples == whole.examples).all()
    assert kept.values[SITES[0]] == pytest.approx(whole.values[SITES[0]], rel=1e-3, abs=1e-3)
    words = extract_to_store(loaded, corpus, PLAN, tmp_path / "words", tokens="words")
    assert (joined(words.blocks(), "encoder", "piece").words >= 0).all()


def test_a_value_that_half_precision_cannot_hold_stops_before_it_is_written(
    loaded: LoadedModel, corpus: Corpus, tmp_path: Path
) -> None:
    def huge(window: list[Any]) -> Iterator[Block]:
        for block in extract(loaded, window, ("none",), PLAN):
            yield replace(block, values={site: x * 1e6 for site, x in block.values.items()})

    with pytest.raises(StoreError, match=r"activations up to .* do not fit into float16"):
        extract_to_store(loaded, corpus, PLAN, tmp_path / "huge", dtype="float16", produce=huge)
    assert not list(tmp_path.iterdir())


def test_damaged_stores(store: ActivationStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no activation store"):
        ActivationStore.open(tmp_path)
    part = store.folder / next(iter(store.parts))
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(StoreError, match="not a readable part"):
        list(store.blocks())
    manifest = store.folder / "store.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(StoreError, match="version 9"):
        ActivationStore.open(store.folder)
    manifest.write_text("{")
    with pytest.raises(StoreError, match="not a readable manifest"):
        ActivationStore.open(store.folder)


def test_methods_that_a_store_has_not_enough_for(loaded: LoadedModel, corpus: Corpus, tmp_path: Path) -> None:
    words = extract_to_store(loaded, corpus, replace(PLAN, levels=("word",)), tmp_path / "words")
    found = discover(
        loaded, corpus, Discovery("tense", "probeless", sites=("encoder.1.resid",), evidence="none"), store=words
    )
    assert not found.readouts
    with pytest.raises(CorpusError, match="the store holds none"):
        discover(loaded, corpus, Discovery("tense", evidence="none"), store=words)
    with pytest.raises(StoreError, match="holds activations and no texts"):
        discover(loaded, words.opened_corpus(), Discovery("tense", "ablation", evidence="none"), store=words)
