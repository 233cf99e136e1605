"""Requests drawn by a seed over everything that controls can say, and what each gets alone in transformers."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.controls import parse_controls
from neurodial.control.errors import NeurodialError
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.plans.compiling import CompiledControls
from neurodial.control.runtime.generate import controlled
from neurodial.deploy.demo import DEMO_LM
from neurodial.service.vllm.admission import Admission
from neurodial.service.vllm.settings import VllmSettings
from tests.control.runtime.reference import concept_set, random_control
from tests.tiny import tiny

NEAR_TIE = 1e-3
MAX_LENGTH = 128
_SMALL: dict[str, Any] = {
    "vocab_size": 600,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
}
_GROUPED = _SMALL | {"intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
_FALCON = _SMALL | {"ffn_hidden_size": 256}  # vLLM knows no other width than four times the states
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _GROUPED),
    "mistral": ("mistral", _GROUPED | {"sliding_window": None}),
    "qwen2": ("qwen2", _GROUPED | {"hidden_size": 128}),
    "qwen3": ("qwen3", _GROUPED),
    "gemma2": ("gemma2", _GROUPED | {"sliding_window": 128, "query_pre_attn_scalar": 32}),
    "gemma3_text": ("gemma3_text", _GROUPED | {"sliding_window": 128, "query_pre_attn_scalar": 32}),
    "phi3": ("phi3", _GROUPED | {"hidden_size": 128, "pad_token_id": 0}),
    "gpt2": (
        "gpt2",
        {"vocab_size": 600, "n_embd": 64, "n_inner": 160, "n_layer": 3, "n_head": 2, "n_positions": 256},
    ),
    "opt": ("opt", _SMALL | {"ffn_dim": 160, "word_embed_proj_dim": 64}),
    "bloom": ("bloom", {"vocab_size": 600, "hidden_size": 64, "n_layer": 3, "n_head": 2}),
    "falcon": ("falcon", _FALCON),
    "falcon-new": (
        "falcon-new",
        _FALCON | {"num_attention_heads": 4, "hidden_size": 128, "num_kv_heads": 2, "ffn_hidden_size": 512},
    ),
    "falcon-per-head": ("falcon-per-head", _FALCON),
}
CONFIG = SimpleNamespace(  # what admission reads of vLLM's
    scheduler_config=SimpleNamespace(max_num_seqs=16, max_num_batched_tokens=48),
    model_config=SimpleNamespace(max_model_len=MAX_LENGTH),
    parallel_config=SimpleNamespace(tensor_parallel_size=1, pipeline_parallel_size=1),
)
SETTINGS: dict[str, Any] = {"updates": 4}


@dataclass(frozen=True)
class Drawn:
    """One request: prompt, controls as JSON ("" for none), compiled, and most tokens."""

    prompt: tuple[int, ...]
    controls: str
    compiled: CompiledControls | None
    max_tokens: int


@dataclass(frozen=True)
class Alone:
    """What a request gets alone: tokens, how far apart the best two logits were at each, and the proof."""

    tokens: list[int]
    gaps: list[float]
    applied: Any


def model_folder(name: str, folder: Path) -> Path:
    """The checkpoint of a small random model, or the demo language model; no token ends an output of a random one."""
    if name == "demo":
        return DEMO_LM
    kind, more = MODELS[name]
    path = folder / name
    model = tiny(kind, seed=5, initializer_range=0.08, **more)
    settings: Any = model.generation_config
    model.config.eos_token_id = settings.eos_token_id = None
    model.save_pretrained(path)
    return path


def sets_for(loaded: LoadedModel, folder: Path, count: int = 2) -> dict[str, str]:
    """Random neuron sets with maps and read-outs, as files."""
    files = {}
    for number in range(count):
        path = folder / f"{loaded.sites.model_type}-{number}.safetensors"
        concept_set(loaded, str(number), number).save(path)
        files[str(number)] = str(path)
    return files


def draw_requests(
    loaded: LoadedModel, sets: dict[str, str], count: int, seed: int, settings: dict[str, Any] | None = None
) -> list[Drawn]:
    """Distinct controls, each on one or several requests; prompts share their beginnings; a quarter has no controls."""
    draw = random.Random(seed)
    told = VllmSettings.model_validate(SETTINGS | (settings or {}))
    admission = Admission(loaded, told, CONFIG, sets=SetCatalogue.from_files(sets))
    vocabulary = int(loaded.model.config.vocab_size)
    stems = [[draw.randrange(5, vocabulary) for _ in range(48)] for _ in range(4)]
    drawn: list[Drawn] = []
    while len(drawn) < count:
        stem = draw.choice(stems)[: draw.choice((0, 3, 20, 40, 48))]
        prompt = (*stem, *(draw.randrange(5, vocabulary) for _ in range(draw.randint(1, 20))))
        raw = [random_control(loaded, draw, sorted(sets)) for _ in range(draw.choice((0, 1, 1, 2, 3)))]
        try:
            compiled = admission.compiled(parse_controls(raw)) if raw else None
        except NeurodialError:  # more than the tables hold, or an encoder's: the front end would refuse it
            continue
        text = json.dumps(raw) if raw else ""
        drawn += [Drawn(prompt, text, compiled, draw.randint(1, 24)) for _ in range(draw.choice((1, 1, 1, 2)))]
    return drawn[:count]


def alone(loaded: LoadedModel, request: Drawn) -> Alone:
    """Runs one request by `controlled` in transformers."""
    ids = torch.tensor([request.prompt])
    model: Any = loaded.model
    with torch.inference_mode(), controlled(loaded, [request.compiled]) as applied:
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=request.max_tokens,
            do_sample=False,
            pad_token_id=0,
            bad_words_ids=None,  # of the demo's settings, which vLLM does not read
            return_dict_in_generate=True,
            output_logits=True,
        )
    best = [step[0].float().topk(2).values for step in output.logits]
    gaps = [float(top[0] - top[1]) for top in best]
    return Alone(output.sequences[0, len(request.prompt) :].tolist(), gaps, applied.report(0))


def differs(found: Sequence[int], expected: Alone) -> float | None:
    """How far apart the best two tokens were where outputs part; None where they do not."""
    pairs = zip([*found, -1], [*expected.tokens, -1], strict=False)
    place = next((n for n, (a, b) in enumerate(pairs) if a != b), None)
    return None if place is None else expected.gaps[min(place, len(expected.gaps) - 1)]


def load(folder: Path) -> LoadedModel:
    """A checkpoint in transformers, in float32, without a tokenizer."""
    return load_model(folder, text=False)
