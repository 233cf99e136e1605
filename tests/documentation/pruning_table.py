"""Writes the support table of docs/reference/pruning.md: `make pruning-table`.

The table is made of the architecture table and of each architecture's own modules, built without weights from
transformers' default config, so that it says nothing that the code does not do.
"""

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from neurodial.control.surgery.pruning.support import FILLS, MODES, PARTS, support
from tests.documentation.architectures_table import write_table

START = "<!-- made by `make pruning-table` -->"

# How users call them → (model_type, settings that differ from the default).
VARIANTS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("BERT", "bert", {}),
    ("RoBERTa", "roberta", {}),
    ("XLM-RoBERTa", "xlm-roberta", {}),
    ("ELECTRA", "electra", {}),
    ("DistilBERT", "distilbert", {}),
    ("DeBERTa-v2", "deberta-v2", {}),
    ("ModernBERT", "modernbert", {}),
    ("GPT-2", "gpt2", {}),
    ("GPT-NeoX", "gpt_neox", {}),
    ("OPT", "opt", {}),
    ("BLOOM", "bloom", {}),
    ("Falcon", "falcon", {}),
    ("Falcon, new architecture", "falcon", {"new_decoder_architecture": True}),
    ("Falcon, one key and value per head", "falcon", {"multi_query": False}),
    ("Falcon with ALiBi", "falcon", {"alibi": True}),
    ("Llama", "llama", {}),
    ("Mistral", "mistral", {}),
    ("Qwen2", "qwen2", {}),
    ("Qwen3", "qwen3", {}),
    ("Gemma2", "gemma2", {}),
    ("Gemma3 (text)", "gemma3_text", {}),
    ("Gemma3", "gemma3", {}),
    ("Phi-3", "phi3", {}),
    ("OLMo2", "olmo2", {}),
    ("SmolLM3", "smollm3", {}),
    ("Marian", "marian", {}),
    ("BART", "bart", {}),
    ("mBART", "mbart", {}),
    ("Pegasus", "pegasus", {}),
    ("M2M100, NLLB", "m2m_100", {}),
    ("T5", "t5", {}),
    ("T5, gated", "t5", {"feed_forward_proj": "gated-gelu"}),
)


def outcomes(model_type: str, settings: Mapping[str, Any]) -> tuple[str | None, ...]:
    """What `support` says of one architecture, in the order of the table's columns; None is exact."""
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model(model_type, **settings))
    found = support(model)
    return tuple(found[part, mode, to] for part in PARTS for mode in MODES for to in FILLS)


@cache
def support_table() -> str:
    """The table as Markdown; reasons are numbered notes below it."""
    groups: dict[tuple[str | None, ...], list[str]] = {}
    for name, model_type, settings in VARIANTS:
        groups.setdefault(outcomes(model_type, settings), []).append(name)
    notes = list(dict.fromkeys(reason for found in groups for reason in found if reason))
    return "\n".join((*_head(), *_rows(groups, notes), "", *_notes(notes)))


def _head() -> Iterator[str]:
    columns = [f"{part}, {mode}, {to}" for part in ("FFN", "heads") for mode in MODES for to in FILLS]
    yield "| Architecture | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"


def _rows(groups: Mapping[tuple[str | None, ...], list[str]], notes: list[str]) -> Iterator[str]:
    for found, names in groups.items():
        cells = ["exact" if reason is None else f"no ({notes.index(reason) + 1})" for reason in found]
        yield f"| {'; '.join(names)} | " + " | ".join(cells) + " |"


def _notes(notes: list[str]) -> Iterator[str]:
    for number, reason in enumerate(notes, 1):
        yield f"{number}. {reason}"


if __name__ == "__main__":
    write_table(Path(sys.argv[1]), START, support_table())
