"""One prompt under different controls, one after another, with prefix caching; prints JSON. See `prove`."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from neurodial.control.controls import parse_controls
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import compile_controls
from tests.service.vllm.prove import engine_for, params_of
from tests.service.vllm.requests import Drawn, alone, differs, load, model_folder

A = [{"neurons": "decoder.1.ffn[0-30]", "op": "shift", "value": 2.0}]
B = [{"neurons": "decoder.1.resid[3,4]", "op": "clamp", "value": 3.0}]
LATER = [{"neurons": "decoder.0.resid[0-9]", "op": "amplify", "value": 4.0, "phase": "generation"}]


def prove(folder: Path) -> dict[str, Any]:
    """What came out, and how many tokens were taken from the cache."""
    path = model_folder("llama", folder)
    loaded = load(path)
    engine = engine_for(path, compiled=False, blocks=200, settings={})
    prompt = tuple(range(7, 7 + 50))
    cached: dict[str, int] = {}
    wrong: list[str] = []

    def ask(name: str, prompt: tuple[int, ...], controls: list[dict[str, Any]]) -> list[int]:
        request = drawn(loaded, prompt, controls)
        engine.add_request(name, {"prompt_token_ids": list(prompt)}, params_of(request))
        outputs = [output for _ in iter(engine.has_unfinished_requests, False) for output in engine.step()]
        tokens = list(outputs[-1].outputs[0].token_ids)
        cached[name] = outputs[-1].num_cached_tokens
        if differs(tokens, alone(loaded, request)) is not None:
            wrong.append(name)
        return tokens

    for name, controls in (("A", A), ("none", []), ("B", B), ("A again", A), ("none again", [])):
        ask(name, prompt, controls)
    # a prompt that is another's with its output: the same tokens have other steps, so that what is cached differs
    written = ask("generation", prompt, LATER)
    ask("generation again", prompt, LATER)
    ask("generation, continued", (*prompt, *written), LATER)
    ask("none, continued", (*prompt, *written), [])
    return {"wrong": wrong, "cached": cached}


def drawn(loaded: LoadedModel, prompt: tuple[int, ...], controls: list[dict[str, Any]]) -> Drawn:
    """A request for so many tokens that a second block is full."""
    compiled = compile_controls(loaded, parse_controls(controls)) if controls else None
    return Drawn(prompt, json.dumps(controls) if controls else "", compiled, 20)


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        print(json.dumps(prove(Path(temporary))))
