"""What training is told: settings that are checked before anything runs, and the token ids to train on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from neurodial.control.errors import BadInput, CorpusError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.calibration import decoder_input
from neurodial.interpret.activations.losses import TokenRow, token_rows
from neurodial.interpret.corpora.corpus import Corpus

POSITIVE = ("minutes", "steps", "learning_rate", "batch_tokens", "temperature", "clip_norm", "evaluations", "patience")
SHARES = ("warmup", "label_smoothing")
WEIGHTS = ("ce", "kl", "hidden", "decay_power")


@dataclass(frozen=True)
class Settings:
    """Everything that decides the trained weights besides model, text and, where minutes count, the machine's speed.

    Attributes:
        minutes: budget of the whole run, evaluation and checkpoints included.
        steps: budget in updates; with both, whichever comes first. One of the two is needed.
        clock: what minutes are of: `wall`, or `cpu`, the processor time of all threads together.
        learning_rate: the peak, of AdamW without weight decay.
        warmup: share of the budget in which the rate climbs to its peak.
        decay_power: the rate then falls as (share of the budget that is left) ** decay_power, to zero.
        batch_tokens: rows times the longest row of a batch.
        ce: weight of the cross-entropy of the text's own tokens.
        kl: weight of KL(teacher || model) over the vocabulary, mean per token; needs a teacher.
        hidden: weight of the squared distance to the teacher's residual streams, of all layers, over their variance;
            needs a teacher. It is what keeps the neurons of `resid` sites doing what they did, and with them neuron
            sets.
        temperature: of both distributions in the KL, which is multiplied by its square (Hinton et al. 2015).
        label_smoothing: of the cross-entropy.
        dropout: whether the model's own dropout is on; a short distillation is better without.
        clip_norm: largest norm of the gradient.
        evaluations: times that the dev loss is taken, evenly spread; the best weights are the ones that are kept.
        patience: evaluations without improvement after which training stops; None never stops early.
        precision: of the arithmetic (autocast); weights and updates are always float32.
        seed: of the order of batches, dropout and masked tokens.
    """

    minutes: float | None = None
    steps: int | None = None
    clock: Literal["wall", "cpu"] = "wall"
    learning_rate: float = 5e-4
    warmup: float = 0.05
    decay_power: float = 1.0
    batch_tokens: int = 2048
    ce: float = 1.0
    kl: float = 1.0
    hidden: float = 0.0
    temperature: float = 1.0
    label_smoothing: float = 0.0
    dropout: bool = False
    clip_norm: float = 1.0
    evaluations: int = 8
    patience: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def check(self) -> None:
        """Refuses settings that make no sense.

        Raises:
            BadInput: naming the setting.
        """
        if self.minutes is None and self.steps is None:
            raise BadInput("training needs a budget", hint="give minutes or steps")
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise BadInput(f"{name} {value:g}: not a positive number", param=name)
        for name in SHARES:
            if not 0.0 <= getattr(self, name) < 1.0:
                raise BadInput(f"{name} {getattr(self, name):g}: not a share, at least 0 and less than 1", param=name)
        for name in WEIGHTS:
            if not getattr(self, name) >= 0:
                raise BadInput(f"{name} {getattr(self, name):g}: less than zero", param=name)

    @property
    def document(self) -> dict[str, Any]:
        """For reports, lineages and cards."""
        return asdict(self)


@dataclass(frozen=True)
class TrainingData:
    """Token ids to train on, and others to choose the best weights by.

    Attributes:
        train: rows of `interpret.activations.losses`.
        dev: rows that are not trained on.
        corpora: name, digest and size of the text, for reports.
    """

    train: Sequence[TokenRow]
    dev: Sequence[TokenRow]
    corpora: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: LoadedModel, train: Corpus, dev: Corpus) -> "TrainingData":
        """Encodes two corpora, in memory.

        Args:
            loaded: whose tokenizer encodes them; an encoder–decoder writes the targets where the corpus has none.
            train: text to train on.
            dev: other text.
        """
        first, second = (token_rows(loaded, list(c), decoder_input(loaded, c, None)) for c in (train, dev))
        return cls(first, second, {"train": train.described, "dev": dev.described})

    def check(self) -> None:
        """Refuses data that cannot be trained on.

        Raises:
            CorpusError: if a part is empty.
        """
        for name in ("train", "dev"):
            if not getattr(self, name):
                raise CorpusError(f"there is no text for {name}", hint="give more text, or a dev corpus of its own")

    @property
    def digest(self) -> str:
        """`sha256:` and 64 digits over all rows."""
        content = hashlib.sha256()
        for rows in (self.train, self.dev):
            for row in rows:
                content.update(json.dumps([row.source, row.target]).encode())
            content.update(b"\n")
        return f"sha256:{content.hexdigest()}"
