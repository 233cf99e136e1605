"""A copy of the demo's encoder fine-tuned on a sentence task, to see what becomes of what its layers know of words."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.interpret.common.progress import progress
from tests.experiments.demo_en_es.corpora import read_tsv

TASK = "tense"  # of the main clause, in a treebank's sentences
EPOCHS, BATCH, RATE = 3, 32, 2e-4


def fine_tuned(model: str | Path, data: Path, seed: int = 0) -> tuple[LoadedModel, float]:
    """The model with its encoder trained on a sentence task, and its accuracy on the validation part.

    A linear head reads the mean of the encoder's last layer; head and encoder are trained together, as in fine-tuning
    for classification.
    """
    loaded = load_model(model)
    rows = read_tsv(data / "probing" / f"{TASK}.tsv.gz")
    labels = sorted({row["label"] for row in rows})
    train, held_out = (
        [(row["text"], labels.index(row["label"])) for row in rows if row["split"] == split] for split in ("tr", "va")
    )
    torch.manual_seed(seed)
    head = torch.nn.Linear(loaded.model.config.hidden_size, len(labels))
    trained = [*loaded.model.get_encoder().parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    order, steps = np.random.default_rng(seed), EPOCHS * (len(train) // BATCH)
    with progress("fine-tuning a copy", steps) as advance:
        for _ in range(EPOCHS):
            shuffled = order.permutation(len(train))[: BATCH * (len(train) // BATCH)]
            for places in shuffled.reshape(-1, BATCH):
                loss = functional.cross_entropy(*_logits(loaded, head, [train[i] for i in places]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                advance(1)
    with torch.inference_mode():
        hits = [
            (logits.argmax(1) == target).float()
            for start in range(0, len(held_out), 128)
            for logits, target in [_logits(loaded, head, held_out[start : start + 128])]
        ]
    return loaded, float(torch.cat(hits).mean())


def _logits(
    loaded: LoadedModel, head: torch.nn.Linear, rows: list[tuple[str, int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = loaded.tokenizer([text for text, _ in rows], return_tensors="pt", padding=True, truncation=True)
    mask = inputs["attention_mask"]
    states = loaded.model.get_encoder()(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state
    mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return head(mean), torch.tensor([label for _, label in rows])
