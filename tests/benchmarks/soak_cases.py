"""What a soak asks for: random texts and controls with the outputs of solo runs, and malformed requests."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from neurodial.control.addresses import Site
from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.controls import parse_controls
from neurodial.control.errors import ControlError
from neurodial.control.models.loading import LoadedModel, load_model
from neurodial.control.plans.compiling import CompiledControls, compile_controls
from neurodial.control.runtime.generate import controlled
from neurodial.deploy.configuration.settings import ModelSettings

CLEAR = (
    1e-3  # least distance of the best two logits at every step of a case: nearer ones are ties that rounding decides
)

_SUBJECTS = ("She", "The old man", "My sister", "A tall boy", "The teacher", "Our neighbour", "The children", "He")
_VERBS = ("opens", "sees", "wants", "carries", "finds", "buys", "paints", "remembers", "brings", "loses")
_OBJECTS = ("the door", "a red car", "two letters", "the house by the river", "some bread", "my book", "a small dog")
_ENDS = (".", " today.", " and smiles.", " before the train comes.", " because it rains, and nobody asks why.")

MALFORMED: tuple[tuple[bytes, int], ...] = (
    (b"{", 400),
    (b"\xff\xfe", 400),
    (b"[]", 400),
    (b'{"model": "en-es"}', 400),
    (b'{"model": "en-es", "prompt": ""}', 400),
    (b'{"model": "nobody", "prompt": "Hello."}', 404),
    (b'{"model": "en-es", "prompt": "Hello.", "temperature": NaN}', 400),
    (b'{"model": "en-es", "prompt": "Hello.", "max_tokens": 1000000}', 400),
    (b'{"model": "en-es", "prompt": "Hello.", "controls": [{"set": "mood", "to": "glad"}]}', 400),
    (b'{"model": "en-es", "prompt": "Hello.", "controls": [{"set": "tense", "to": "future"}]}', 400),
    (b'{"model": "en-es", "prompt": "Hello.", "controls": [{"neurons": "encoder.99.ffn[1]", "op": "prune"}]}', 400),
    (b'{"model": "en-es", "prompt": "Hello.", "controls": [{"neurons": "encoder.0.ffn[1]", "op": "explode"}]}', 400),
    (b'{"model": "en-es", "prompt": "' + b"word " * 5000 + b'"}', 400),
    (b'{"model": "en-es", "prompt": "' + b"x" * 2_000_000 + b'"}', 413),
)


@dataclass(frozen=True)
class Case:
    """A request and what a solo run of it writes; None where only the server itself can say (beams, sampling)."""

    body: dict[str, Any]
    text: str | None


def cases(settings: ModelSettings, count: int, draw: random.Random) -> Iterator[Case]:
    """Random cases: greedy ones with the text of `generate` on the same model alone, and a few others."""
    loaded = load_model(settings.path)
    sets = SetCatalogue.from_files(settings.sets)
    made = 0
    while made < count:
        body: dict[str, Any] = {"model": settings.id, "prompt": _sentence(draw), "max_tokens": draw.randint(4, 40)}
        if controls := _controls(loaded, draw):
            body["controls"] = controls
        try:
            plan = compile_controls(loaded, parse_controls(controls), sets) if controls else None
        except ControlError:  # a combination that does not exist, such as a gate that would have to read later
            continue
        if made % 5 == 4:
            yield Case(body | draw.choice(({"num_beams": 3}, {"temperature": 0.8, "seed": draw.randrange(1000)})), None)
        elif (text := _solo(loaded, body["prompt"], body["max_tokens"], plan)) is not None:
            yield Case(body, text)
        else:
            continue
        made += 1


def _sentence(draw: random.Random) -> str:
    first = f"{draw.choice(_SUBJECTS)} {draw.choice(_VERBS)} {draw.choice(_OBJECTS)}{draw.choice(_ENDS)}"
    return first if draw.random() < 0.7 else f"{first} {_sentence(draw)}"


def _controls(loaded: LoadedModel, draw: random.Random) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for _ in range(draw.choice((0, 1, 1, 2, 3))):
        if draw.random() < 0.5:
            label = draw.choice(("past", "present"))
            found.append({"set": "tense", "to": label, "strength": round(draw.uniform(0.5, 4.0), 2)})
        else:
            found.append(_inline(loaded, draw))
    return found


def _inline(loaded: LoadedModel, draw: random.Random) -> dict[str, Any]:
    site: Site = draw.choice([site for site in loaded.sites.sites if site.kind != "embed"])
    width = loaded.sites.info(site).width
    neurons = ",".join(map(str, sorted(draw.sample(range(width), draw.choice((1, 10, 50))))))
    control: dict[str, Any] = {"neurons": f"{site}[{neurons}]", "op": draw.choice(("clamp", "amplify", "shift"))}
    control["value"] = round(draw.uniform(-2.0, 3.0), 2)
    if draw.random() < 0.4:
        control["where"] = {"neuron": f"{site}[{draw.randrange(width)}]", "above": 0.0}
    if site.stack == "decoder" and draw.random() < 0.3:
        control["steps"] = [0, draw.randint(1, 8)]
    return control


@torch.inference_mode()
def _solo(loaded: LoadedModel, prompt: str, max_tokens: int, plan: CompiledControls | None) -> str | None:
    """The text that the model alone writes; None where a step was nearly a tie."""
    tokenizer: Any = loaded.tokenizer
    model: Any = loaded.model
    inputs = tokenizer(prompt, return_tensors="pt")
    with controlled(loaded, [plan]):
        output = model.generate(
            **inputs,
            max_new_tokens=max_tokens,
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=True,
            output_logits=True,
        )
    best = [step[0].topk(2).values for step in output.logits]
    if any(float(top[0] - top[1]) < CLEAR for top in best):
        return None
    return str(tokenizer.decode(output.sequences[0], skip_special_tokens=True))
