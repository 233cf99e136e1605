"""Trains the small English language model: `make train-lm DATA=…`.

A Llama of 6 M parameters on the product's trainer, from random weights, with the language-modelling loss alone: bf16
autocast on the CPU, AdamW, a learning rate that decays to zero over the given minutes, batches of similar length, the
weights of the best dev loss. A run that was stopped goes on where it was.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import typer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from neurodial.interpret.activations.losses import TokenRow
from neurodial.interpret.training.settings import Settings
from tests.experiments.common import Data
from tests.experiments.demo_lm.corpus import Corpus, Round
from tests.experiments.demo_lm.tokenizer import train_bpe
from tests.experiments.pretraining import export, pretrain

POSITIONS = 256
LONGEST_ROW = 96  # tokens of a training row; what is longer is cut
DEV_ROWS = 500
SETTINGS = Settings(
    minutes=60.0,
    learning_rate=2e-3,
    decay_power=0.7,
    batch_tokens=2048,
    evaluations=20,
    precision="bfloat16",
    seed=13,
)
GENERATION = GenerationConfig(
    max_new_tokens=48, bos_token_id=0, eos_token_id=0, pad_token_id=1, do_sample=False, bad_words_ids=[[1]]
)


def lm_config(vocab_size: int) -> LlamaConfig:
    """The model's shape; id 0 begins and ends a text, id 1 pads."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )


def token_rows(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> Iterator[TokenRow]:
    """The ids of texts, each with the token of the end at both ends."""
    for ids in tokenizer(list(texts))["input_ids"]:
        yield TokenRow((*ids, tokenizer.eos_token_id)[:LONGEST_ROW])


def tokenizer_of(folder: Path, corpus: Corpus, seed: int, size: Round) -> PreTrainedTokenizerFast:
    """The tokenizer that the folder holds, which a run that is taken up again must keep, or a new one."""
    if (folder / "tokenizer.json").exists():
        kept: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
        return kept
    sample = [text for number in range(2) for text in corpus.sentences(number, seed, size)]
    return train_bpe([*corpus.text, *sample], vocab_size=8192, max_length=POSITIONS)


def main(
    data: Data,
    out: Path = typer.Option(Path("deploy/demo/lm"), help="receives the checkpoint"),
    work: Path = typer.Option(Path("build/train-lm"), help="keeps the resumable state"),
    minutes: float = typer.Option(SETTINGS.minutes, min=0.01, help="training time"),
    rounds: int = typer.Option(12, min=1, help="of the corpus, each drawn anew; then they come again"),
    start: Path | None = typer.Option(None, exists=True, file_okay=False, help="begin with this checkpoint's weights"),
    peak_lr: float = typer.Option(SETTINGS.learning_rate, help="largest learning rate"),
    noisy_share: float = typer.Option(
        Round().noisy_share, min=0, max=1, help="of the fact sentences, one word changed"
    ),
    seed: int = typer.Option(SETTINGS.seed),
) -> None:
    """Trains the demo language model, or goes on with an interrupted run."""
    settings = replace(SETTINGS, minutes=minutes, seed=seed, learning_rate=peak_lr)
    torch.manual_seed(seed)
    corpus, size = Corpus.read(data, seed), Round(noisy_share=noisy_share)
    print(f"{len(corpus.text)} lines of text, {len(corpus.book.facts)} facts; {size}", flush=True)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_of(start or work, corpus, seed, size)
    tokenizer.save_pretrained(work)
    model = LlamaForCausalLM(lm_config(len(tokenizer)))
    if start is not None:
        model.load_state_dict(LlamaForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict())
    model.set_attn_implementation("eager")  # three times as fast as the fused one in bf16 on rows this short
    texts = [text for number in range(rounds) for text in corpus.rows(number, seed, size)]
    dev = list(token_rows(tokenizer, corpus.held_out_text[:DEV_ROWS]))
    trained = pretrain(model, tokenizer, token_rows(tokenizer, texts), dev, settings, work / "run")
    export(trained, tokenizer, GENERATION, out)
    print(f"saved to {out}")


if __name__ == "__main__":
    typer.run(main)
