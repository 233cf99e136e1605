import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurodial.control.addresses import Site
from neurodial.control.controls import parse_controls
from neurodial.control.errors import BadInput, CalibrationError, ModelError, NeurodialWarning, PruningError
from neurodial.control.plans.compiling import compile_controls
from neurodial.control.runtime.generate import controlled
from neurodial.interpret.activations.calibration import calibrate_model
from neurodial.interpret.corpora.corpus import Corpus, Example, Sentence
from neurodial.interpret.studies.pruning.quality import Perplexity, TranslationQuality, measurable_quality, quality_on
from neurodial.interpret.studies.pruning.report import table, to_html, write_report
from neurodial.interpret.studies.pruning.speed import measure_speed
from neurodial.interpret.studies.pruning.sweep import Way, check_keeps, measure_point, prune_to, rank_units, sweep
from tests.tiny import inputs_for
from tests.word_tokenizer import sentences, tiny_with_text


def corpus(count: int = 10, *, parallel: bool = False) -> Corpus:
    others = sentences(count, seed=5)
    return Corpus.of(
        "random words",
        [
            Example(i, Sentence.of(text), target=Sentence.of(others[i]) if parallel else None)
            for i, text in enumerate(sentences(count))
        ],
    )


def test_keep_ratios_are_checked_and_put_in_order() -> None:
    assert check_keeps([0.5, 0.9, 0.5, 1.0]) == [0.9, 0.5]
    for bad in (0.0, -0.1, 1.2, float("nan")):
        with pytest.raises(BadInput, match=r"not in \(0, 1\]"):
            check_keeps([0.5, bad])


@pytest.mark.parametrize(("name", "mode"), [("marian", "uniform"), ("bert", "adaptive")])
@pytest.mark.parametrize("to", ["zero", "mean"])
def test_a_pruned_model_is_the_ablated_one(name: str, mode: Any, to: Any) -> None:
    loaded = tiny_with_text(name)
    text = corpus(parallel=name == "marian")
    calibration = calibrate_model(loaded, text)
    way = Way("random", mode=mode, to=to, round_to=4)
    pruned = prune_to(loaded, rank_units(loaded, way).scores, 0.6, way, calibration)
    assert pruned.lineage is not None
    assert pruned.lineage.steps[-1]["by"] == "random"
    controls = [
        {"neurons": f"{site}[{n}]", "op": "clamp", "value": float(calibration.mean(site)[n]) if to == "mean" else 0.0}
        for site, kept in pruned.lineage.kept.items()
        for n in range(kept.original_width)
        if n not in kept.indices
    ]
    inputs = inputs_for(loaded.model)
    rows = [compile_controls(loaded, parse_controls(controls))] * 2
    with torch.inference_mode():
        with controlled(loaded, rows):
            expected = loaded.model(**inputs).logits
        found = pruned.model(**inputs).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_encoder_can_keep_less_while_the_whole_stays_the_same() -> None:
    loaded = tiny_with_text("marian")
    way = Way("random", round_to=1, encoder=0.5)
    pruned = prune_to(loaded, rank_units(loaded, way).scores, 0.5, way)
    widths = [[info.width for info in pruned.sites.of(stack, "ffn")] for stack in pruned.sites.stacks]
    assert widths == [[12, 12], [32, 32]]  # of 48 and 40
    assert sum(map(sum, widths)) == (2 * 48 + 2 * 40) // 2
    llama = tiny_with_text("llama")
    scores = rank_units(llama, way).scores
    with pytest.raises(BadInput, match="no encoder and decoder"):
        prune_to(llama, scores, 0.5, way)


def test_means_come_from_a_calibration_of_the_model() -> None:
    loaded, other = tiny_with_text("bert"), tiny_with_text("bert", seed=1)
    way = Way("random", to="mean", round_to=1)
    scores = rank_units(loaded, way, calibration=calibrate_model(loaded, corpus())).scores
    with pytest.raises(CalibrationError, match="needs a calibration"):
        prune_to(loaded, scores, 0.5, way)
    with pytest.raises(BadInput, match="not for this model"):
        prune_to(loaded, scores, 0.5, way, calibrate_model(other, corpus()))


def test_what_an_architecture_refuses_stays_refused() -> None:
    loaded = tiny_with_text("marian")
    way = Way("magnitude", what="heads")
    with pytest.raises(PruningError, match="number of heads"):
        prune_to(loaded, rank_units(loaded, way).scores, 0.5, way)
    with pytest.raises(BadInput, match="what='tails'"):
        rank_units(loaded, Way("magnitude", what="tails"))
    with pytest.raises(BadInput, match="no ranking 'size'"):
        rank_units(loaded, Way("size"))


@pytest.mark.parametrize("name", ["llama", "bert", "marian"])
def test_perplexity_is_that_of_the_texts_one_by_one(name: str) -> None:
    loaded = tiny_with_text(name)
    text = corpus()
    quality = quality_on(loaded, text)
    assert (quality.name, quality.higher_is_better) == ("perplexity", False)
    found = quality.measure(loaded)
    assert found == quality.measure(loaded)
    if name == "llama":
        each = []
        for example in text:
            ids = torch.tensor([loaded.tokenizer(example.source.text)["input_ids"]])
            log_p = loaded.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            each.append(-log_p.gather(1, ids[0, 1:, None]).detach().squeeze(1))
        assert found["perplexity"] == pytest.approx(float(torch.cat(each).mean().exp()), rel=1e-3)


def test_translations_are_scored_with_all_references() -> None:
    loaded = tiny_with_text("marian")
    repeated = [Example(i, Sentence.of("w5 w6"), target=Sentence.of(t)) for i, t in enumerate(("w7 w8", "w9"))]
    quality = quality_on(loaded, Corpus.of("twice", repeated))
    assert isinstance(quality, TranslationQuality)
    assert quality.references == {"w5 w6": ["w7 w8", "w9"]}
    assert set(quality.measure(loaded)) == {"bleu", "chrf"}


def test_a_model_without_a_head_has_no_quality() -> None:
    from transformers import BertConfig, BertModel

    from tests.word_tokenizer import with_tokenizer

    config = BertConfig(vocab_size=60, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48)
    headless = with_tokenizer(BertModel(config).eval())
    with pytest.raises(ModelError, match="no language-model head"):
        Perplexity.of(headless, corpus()).measure(headless)
    with pytest.warns(NeurodialWarning, match="quality is not measured: BertModel has no language-model head"):
        assert measurable_quality(headless, corpus()) is None


@pytest.mark.parametrize(
    ("name", "stages"), [("llama", {"step"}), ("bert", {"encode"}), ("marian", {"encode", "step"})]
)
def test_speed_is_measured_in_turns_and_beside_the_ideal(name: str, stages: set[str]) -> None:
    loaded = tiny_with_text(name)
    way = Way("random", round_to=4)
    pruned = prune_to(loaded, rank_units(loaded, way).scores, 0.5, way)
    report = measure_speed(loaded, pruned, rows=2, tokens=4, rounds=3)
    assert stages == set(report) & {"encode", "step"}
    for stage in stages:
        found = report[stage]
        assert found["ffn_ideal"] == 2.0
        assert found["ffn_efficiency"] == pytest.approx(found["ffn_speedup"] / 2, abs=1e-3)
        assert 0 < found["pruned_ffn_ms"]["median"] < found["pruned_ms"]["median"]
    module = loaded.sites.info(Site.parse(f"{loaded.sites.stacks[-1]}.0.ffn")).module
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


def report_of(points: list[dict[str, Any]], original: dict[str, Any]) -> dict[str, Any]:
    return {
        "format_version": 1,
        "model": {"name": "tiny <b>", "fingerprint": "sha256:" + "0" * 64, "dtype": "float32"},
        "way": Way("random").settings,
        "keep": 0.5,
        "ranked": {"named": 3, "total": 96},
        "corpora": {"quality on": {"name": "text:a.txt", "digest": "x", "size": 1}},
        "original": original,
        "points": points,
        "quality": {"name": "perplexity", "higher_is_better": False},
    }


def test_the_report_shows_every_point_and_needs_nothing_else(tmp_path: Path) -> None:
    loaded = tiny_with_text("llama")
    way = Way("random", round_to=1)
    quality = quality_on(loaded, corpus())
    seen: list[float] = []
    points = sweep(
        loaded, rank_units(loaded, way).scores, [0.75, 0.5], way, quality=quality, rounds=1,
        done=lambda point: seen.append(point["keep"]),
    )  # fmt: skip
    original = measure_point(loaded, loaded, 1.0, quality, 0)
    assert seen == [0.75, 0.5]
    assert points[1]["left"] == {"decoder.ffn": [24, 24]}
    report = report_of(points, original)
    headings, rows = table(report)
    assert len(rows) == 3
    assert {len(row) for row in rows} == {len(headings)}
    assert rows[2][0] == "50 %"
    write_report(tmp_path, report)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "report.md", "sweep.png"]
    assert json.loads((tmp_path / "report.json").read_text())["points"] == points
    assert "names 3 of 96" in (tmp_path / "report.md").read_text()
    html = to_html(report)
    assert "tiny &lt;b&gt;" in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert html == to_html(report)  # to the byte
    assert np.isclose(points[1]["cost"]["ffn_parameters"], original["cost"]["ffn_parameters"] / 2)
