"""A tokenizer for the tiny models: its words are `w2` to `w57`, each one token."""

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from neurodial.control.models.loading import LoadedModel
from tests.tiny import BOS, EOS, PAD, VOCABULARY, tiny

MASK = EOS - 1


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Ends every text with the end token, as translation models' tokenizers do."""
    vocabulary = {f"w{i}": i for i in range(VOCABULARY)}
    special = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "mask_token": MASK}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=f"w{BOS}"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A w{EOS}", special_tokens=[(f"w{EOS}", EOS)])
    names = {name: f"w{number}" for name, number in special.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=f"w{BOS}", model_max_length=48, **names)


def with_tokenizer(model: PreTrainedModel) -> LoadedModel:
    """A model with its tokenizer."""
    return LoadedModel.wrap(model, word_tokenizer())


def tiny_with_text(name: str, **options: object) -> LoadedModel:
    """A tiny model that reads text."""
    return with_tokenizer(tiny(name, **options))  # type: ignore[arg-type]


def sentences(count: int, *, seed: int = 0) -> list[str]:
    """Random sentences of two to eight words, all different in length and words."""
    state = seed * 7919 + 1
    texts = []
    for number in range(count):
        words = []
        for _ in range(2 + number % 7):
            state = (state * 1103515245 + 12345) % 2**31
            words.append(f"w{2 + (state >> 8) % 56}")
        texts.append(" ".join(words))
    return texts
