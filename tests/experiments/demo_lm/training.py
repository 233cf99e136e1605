"""Trains the small English language model: `make train-lm DATA=…`.

A Llama of 6 M parameters, with the language-modelling loss alone: bf16 autocast on the CPU, AdamW, learning rate
decaying to zero over the given minutes, batches of similar length, and the mean of the last checkpoints. A run that was
stopped goes on where it was.
"""

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import typer
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.experiments.common import Data
from tests.experiments.demo_en_es.training_loop import Recipe, TimedTraining, batches_by_length
from tests.experiments.demo_lm.corpus import Corpus, Round
from tests.experiments.demo_lm.tokenizer import train_bpe

POSITIONS = 256
LONGEST_ROW = 96  # tokens of a training row; what is longer is cut
RECIPE = Recipe(minutes=60.0, peak_lr=2e-3, warmup_steps=150, label_smoothing=0.0, batch_tokens=2048)


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


class LanguageTraining(TimedTraining[torch.Tensor]):
    """Next-token training on a corpus; an epoch is a round of the corpus."""

    def __init__(
        self,
        model: LlamaForCausalLM,
        tokenizer: PreTrainedTokenizerFast,
        corpus: Corpus,
        recipe: Recipe,
        size: Round = Round(),  # noqa: B008 - frozen
    ) -> None:
        model.set_attn_implementation("eager")  # three times as fast as the fused one in bf16 on rows this short
        super().__init__(model, recipe)
        self.tokenizer, self.corpus, self.size = tokenizer, corpus, size

    def batches(self, epoch: int) -> Sequence[torch.Tensor]:
        """Ids of each batch, right-padded, each row with the token of the end at both ends."""
        rows = self.tokenizer(self.corpus.rows(epoch, self.recipe.seed, self.size))["input_ids"]
        end, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        ids = [torch.tensor([*row, end][:LONGEST_ROW]) for row in rows]
        draw = random.Random(self.recipe.seed * 1000 + epoch)
        plan = batches_by_length([(len(row), 0) for row in ids], self.recipe.batch_tokens, draw)
        return [torch.nn.utils.rnn.pad_sequence([ids[i] for i in rows], True, pad) for rows in plan]

    def loss(self, batch: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Cross-entropy of every token but the first; padding comes last, so that no real token sees it."""
        inputs, targets = batch[:, :-1], batch[:, 1:]
        real = targets != self.tokenizer.pad_token_id  # the vocabulary is the largest product: spend it on these alone
        with torch.autocast("cpu", torch.bfloat16):
            hidden = self.model.model(input_ids=inputs, use_cache=False).last_hidden_state
            logits = self.model.lm_head(hidden[real])
        loss = functional.cross_entropy(logits.float(), targets[real], label_smoothing=self.recipe.label_smoothing)
        return loss, int(real.sum())


def export(trainer: LanguageTraining, out: Path) -> None:
    """Saves the averaged weights in bf16 as a plain `LlamaForCausalLM` checkpoint with its tokenizer."""
    model = trainer.averaged_model()
    model.generation_config = GenerationConfig(
        max_new_tokens=48, bos_token_id=0, eos_token_id=0, pad_token_id=1, do_sample=False, bad_words_ids=[[1]]
    )
    model.save_pretrained(out)
    trainer.tokenizer.save_pretrained(out)


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
    minutes: float = typer.Option(RECIPE.minutes, min=0.01, help="training time"),
    start: Path | None = typer.Option(None, exists=True, file_okay=False, help="begin with this checkpoint's weights"),
    peak_lr: float = typer.Option(RECIPE.peak_lr, help="largest learning rate"),
    noisy_share: float = typer.Option(
        Round().noisy_share, min=0, max=1, help="of the fact sentences, one word changed"
    ),
    seed: int = typer.Option(RECIPE.seed),
) -> None:
    """Trains the demo language model, or goes on with an interrupted run."""
    recipe = Recipe(**{**asdict(RECIPE), "minutes": minutes, "seed": seed, "peak_lr": peak_lr})
    torch.manual_seed(seed)
    corpus, size = Corpus.read(data, seed), Round(noisy_share=noisy_share)
    print(f"{len(corpus.text)} lines of text, {len(corpus.book.facts)} facts; {recipe}; {size}", flush=True)
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_of(start or work, corpus, seed, size)
    tokenizer.save_pretrained(work)
    model = LlamaForCausalLM(lm_config(len(tokenizer)))
    if start is not None:
        model.load_state_dict(LlamaForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict())
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    trainer = LanguageTraining(model, tokenizer, corpus, recipe, size)
    checkpoint = work / "checkpoint.pt"
    trainer.resume(checkpoint)
    trainer.run(checkpoint, every=60.0)
    export(trainer, out)
    print(f"saved to {out} after {trainer.step} steps, {trainer.tokens:,} tokens, {trainer.epoch} rounds")


if __name__ == "__main__":
    typer.run(main)
