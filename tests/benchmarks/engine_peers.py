"""Serves the engine's workloads with a peer, by the interpreter of an environment of the peer's own.

bench_engine.py writes a folder with the model and every request's control (which neurons to shift, by how much), starts
this file and asks it for one round after another: a line with the jobs comes in, a line with their tokens and times
goes out, and in between the process waits. nnsight and pyvene apply a batch's controls as one dense shift for each
module, which is the fastest way for both: one trace or call for each step, the cache is transformers'. CTranslate2 runs
the same model in float32 without controls. All serve static batches of what waits.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from tests.benchmarks.engine_load import Generate, Job, from_data, in_batches, padded

Shifts = dict[str, torch.Tensor]  # module → (rows, 1, width), added to its input
Call = Callable[..., Any]  # the model's arguments → its output


def with_nnsight(model: Any) -> Callable[[Shifts], Call]:
    """nnsight: one trace a step, which sets the input of each module."""
    wrapped = import_module("nnsight").NNsight(model)

    def envoy_of(path: str) -> Any:
        found = wrapped
        for part in path.split("."):
            found = found[int(part)] if part.isdigit() else getattr(found, part)
        return found

    def under(shifts: Shifts) -> Call:
        envoys = [(envoy_of(path), shift) for path, shift in shifts.items()]

        def call(**arguments: Any) -> Any:
            with wrapped.trace(**arguments):
                for envoy, shift in envoys:
                    envoy.input = envoy.input + shift
                logits = wrapped.output.logits.save()
                cache = wrapped.output.past_key_values.save()
            return logits, cache

        return call

    return under


def with_pyvene(model: Any) -> Callable[[Shifts], Call]:
    """pyvene: an intervention of our own on the input of each module, at all positions."""
    pyvene = import_module("pyvene")

    class Added(pyvene.ConstantSourceIntervention):  # type: ignore[name-defined,misc]
        shift: torch.Tensor

        def __init__(self, **_: Any) -> None:
            super().__init__(keep_last_dim=True)

        def forward(self, base: torch.Tensor, source: Any = None, subspaces: Any = None, **_: Any) -> torch.Tensor:
            return base + self.shift

    added: dict[str, Any] = {}
    wrapped: Any = None

    def under(shifts: Shifts) -> Call:
        nonlocal wrapped
        if wrapped is None:
            added.update({path: Added() for path in shifts})
            parts = [
                {"component": re.sub(r"\.(\d+)", r"[\1]", path) + ".input", "intervention": intervention}
                for path, intervention in added.items()
            ]
            wrapped = pyvene.IntervenableModel(pyvene.IntervenableConfig(parts), model=model)
        for path, shift in shifts.items():
            added[path].shift = shift

        def call(**arguments: Any) -> Any:
            output = wrapped(base=arguments, unit_locations=None)[1]
            return output.logits, output.past_key_values

        return call

    return under


class Controls:
    """Every request's shifts, made dense for a batch."""

    def __init__(self, folder: Path) -> None:
        given = load_file(folder / "controls.safetensors")
        names = [name.removeprefix("neurons/") for name in given if name.startswith("neurons/")]
        self._parts = {name: (given[f"neurons/{name}"], int(given[f"width/{name}"])) for name in names}
        self._value = float(given["value"])

    def of(self, batch: Sequence[Job]) -> Shifts:
        """The shifts of a batch's rows."""
        shifts = {}
        for name, (neurons, width) in self._parts.items():
            shift = torch.zeros(len(batch), 1, width)
            for row, job in enumerate(batch):
                shift[row, 0, neurons[job.number]] = self._value
            shifts[name] = shift
        return shifts


def greedy(model: Any, under: Callable[[Shifts], Call], controls: Controls) -> Generate:
    """Greedy decoding of a batch, one call a step."""
    settings = model.generation_config
    pad = model.config.pad_token_id
    banned = torch.tensor([word[0] for word in settings.bad_words_ids or []], dtype=torch.long)

    def choose(logits: torch.Tensor) -> torch.Tensor:
        return logits[:, -1].index_fill(1, banned, -torch.inf).argmax(-1, keepdim=True)

    def causal(batch: Sequence[Job]) -> dict[str, Any]:
        ids, mask = padded(batch, pad, left=True)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "past_key_values": DynamicCache()}

    def translating(batch: Sequence[Job]) -> dict[str, Any]:
        ids, mask = padded(batch, pad, left=False)
        states = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        start = torch.full((len(batch), 1), settings.decoder_start_token_id)
        return {  # pyvene takes the first for the base
            "decoder_input_ids": start,
            "encoder_outputs": BaseModelOutput(last_hidden_state=states),
            "attention_mask": mask,
            "past_key_values": EncoderDecoderCache(DynamicCache(), DynamicCache()),
        }

    def generate(batch: Sequence[Job], stamps: list[float]) -> list[list[int]]:
        call = under(controls.of(batch))
        made = []
        with torch.inference_mode():
            is_pair = model.config.is_encoder_decoder
            arguments = translating(batch) if is_pair else causal(batch)
            for _ in range(max(job.num_tokens for job in batch)):
                logits, cache = call(**arguments, use_cache=True)
                made.append(choose(logits))
                stamps.append(time.perf_counter())
                arguments |= {"decoder_input_ids" if is_pair else "input_ids": made[-1], "past_key_values": cache}
                if not is_pair:
                    more = arguments["attention_mask"].new_ones(len(batch), 1)
                    arguments["attention_mask"] = torch.cat([arguments["attention_mask"], more], 1)
                    arguments["position_ids"] = arguments["position_ids"][:, -1:] + 1
        rows: list[list[int]] = torch.cat(made, 1).tolist()
        return rows

    return generate


def _keep_the_start_token(converters: Any) -> None:
    """Makes its converter keep the padding token's embedding, from which the demo model's outputs start.

    For Marian models it assumes that this embedding is zero and leaves it out.
    """
    bart = converters.BartLoader

    class Loader(converters.MarianMTLoader):  # type: ignore[misc]
        def get_model_spec(self, model: Any) -> Any:
            model.config.normalize_before = model.config.normalize_embedding = False
            return bart.get_model_spec(self, model)

        def set_config(self, config: Any, model: Any, tokenizer: Any) -> None:
            super().set_config(config, model, tokenizer)
            config.decoder_start_token = tokenizer.pad_token

        def set_decoder(self, spec: Any, decoder: Any) -> None:
            bart.set_decoder(self, spec, decoder)

        def get_vocabulary(self, model: Any, tokenizer: Any) -> Any:
            return bart.get_vocabulary(self, model, tokenizer)

    converters.register_loader("MarianConfig")(Loader)


def with_ctranslate2(folder: Path) -> Generate:
    """CTranslate2 on one thread: the batch's longest output is that of all rows."""
    ctranslate2 = import_module("ctranslate2")
    _keep_the_start_token(import_module("ctranslate2.converters.transformers"))
    converter = ctranslate2.converters.TransformersConverter(str(folder))
    translator = ctranslate2.Translator(
        converter.convert(str(folder / "ctranslate2"), force=True), compute_type="float32", intra_threads=1
    )
    vocabulary = json.loads((folder / "vocab.json").read_text())
    names = {number: token for token, number in vocabulary.items()}

    def generate(batch: Sequence[Job], stamps: list[float]) -> list[list[int]]:
        longest = max(job.num_tokens for job in batch)
        results = translator.translate_batch(
            [[names[i] for i in job.ids] for job in batch],
            beam_size=1,
            min_decoding_length=longest,
            max_decoding_length=longest,
            suppress_sequences=[["<pad>"]],
        )
        stamps += [time.perf_counter()] * longest
        return [[vocabulary[token] for token in result.hypotheses[0]] for result in results]

    return generate


def generator(folder: Path, peer: str) -> Generate:
    """How a peer generates."""
    if peer == "ctranslate2":
        return with_ctranslate2(folder)
    is_pair = AutoConfig.from_pretrained(folder).is_encoder_decoder
    auto: Any = AutoModelForSeq2SeqLM if is_pair else AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    under = {"nnsight": with_nnsight, "pyvene": with_pyvene}[peer](model)
    return greedy(model, under, Controls(folder))


def main(folder: Path, peer: str) -> None:
    """Says its version, then serves every line of jobs until there is none."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    serve = in_batches(generator(folder, peer))
    print(json.dumps(version(peer)), file=answers, flush=True)
    for line in sys.stdin:
        served = serve(from_data(json.loads(line)))
        print(json.dumps({"stamps": served.stamps, "tokens": served.tokens}), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
