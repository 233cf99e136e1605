"""The trainings of the demo models share the product's trainer: from random weights to a plain checkpoint."""

from dataclasses import replace
from pathlib import Path

import torch
from transformers import MarianMTModel, MarianTokenizer

from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.corpora.grammars.tense import generate_pairs
from tests.experiments.demo_en_es.training import SETTINGS, generation_config, token_rows
from tests.experiments.pretraining import export, pretrain


def test_a_translation_model_learns_and_is_a_plain_checkpoint(
    tiny_marian: LoadedModel, tiny_marian_path: Path, tmp_path: Path
) -> None:
    tokenizer = tiny_marian.tokenizer
    assert isinstance(tokenizer, MarianTokenizer)
    rows = token_rows(tokenizer, [(pair.present, pair.past) for pair in generate_pairs(60)])
    assert rows[0].source[-1] == rows[0].target[-1] == tokenizer.eos_token_id
    settings = replace(SETTINGS, minutes=None, steps=40, learning_rate=5e-3, batch_tokens=256, evaluations=2)
    model = MarianMTModel.from_pretrained(tiny_marian_path)
    trained = pretrain(model, tokenizer, rows[10:], rows[:10], settings, tmp_path / "work")
    export(trained, tokenizer, generation_config(model), tmp_path / "out")
    exported = MarianMTModel.from_pretrained(tmp_path / "out")
    assert exported.dtype == torch.bfloat16
    assert exported.generation_config.bad_words_ids == [[model.config.pad_token_id]]
    assert not (tmp_path / "work").exists()

    def loss(of: MarianMTModel) -> float:
        source, target = torch.tensor([rows[0].source]), torch.tensor([rows[0].target])
        with torch.inference_mode():
            return float(of.float().eval()(input_ids=source, labels=target).loss)

    assert loss(exported) < loss(model) - 0.5
