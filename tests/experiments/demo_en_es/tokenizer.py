"""The demo model's joint sentencepiece vocabulary, packed as a `MarianTokenizer`."""

import json
import warnings
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from transformers import MarianTokenizer

EOS, UNK, PAD = "</s>", "<unk>", "<pad>"


def train_tokenizer(sentences: Iterable[str], folder: Path, *, vocab_size: int, max_length: int) -> MarianTokenizer:
    """Trains one unigram vocabulary for both languages and writes it as Marian expects it.

    Args:
        sentences: source and target text together.
        folder: receives `source.spm`, `target.spm` (the same model twice), `vocab.json` and the tokenizer's settings.
        vocab_size: number of pieces, `</s>` and `<unk>` included; `<pad>` comes on top as the last id.
        max_length: positions of the model, in tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder / "joint"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(prefix),
        vocab_size=vocab_size,
        model_type="unigram",
        character_coverage=1.0,
        eos_id=0,
        unk_id=1,
        bos_id=-1,
        pad_id=-1,
        minloglevel=2,
    )
    model = prefix.with_suffix(".model").read_bytes()
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(model)
    for leftover in (".model", ".vocab"):
        prefix.with_suffix(leftover).unlink()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocab = {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
    vocab[PAD] = len(vocab)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False, indent=0), encoding="utf-8")
    with warnings.catch_warnings():  # the punctuation normaliser that it recommends is not used when encoding
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        tokenizer = MarianTokenizer(
            str(folder / "source.spm"),
            str(folder / "target.spm"),
            str(folder / "vocab.json"),
            source_lang="en",
            target_lang="es",
            unk_token=UNK,
            eos_token=EOS,
            pad_token=PAD,
            model_max_length=max_length,
        )
    tokenizer.save_pretrained(folder)
    return tokenizer
