"""Comparing batches under mixed controls with the reference, row by row."""

import random
from dataclasses import dataclass
from typing import Any

import torch

from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.controls import parse_controls
from neurodial.control.models.loading import LoadedModel
from neurodial.control.plans.compiling import compile_controls
from neurodial.control.runtime.generate import controlled
from tests.control.runtime.reference import NEAR, Reference, concept_set, random_control
from tests.tiny import EOS, PAD, inputs_for

NEW_TOKENS = 6
TOLERANCE = 1e-4  # of logits in float32, relative to the largest of the step (at least 1)
Inputs = dict[str, torch.Tensor]


@dataclass
class Outcome:
    """What comparing the rows of a batch found: steps that agree, that are exempt, and what differs."""

    equal: int = 0
    exempt: int = 0
    failures: tuple[str, ...] = ()

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(self.equal + other.equal, self.exempt + other.exempt, self.failures + other.failures)


def random_batch(loaded: LoadedModel, seed: int, rows: int = 3) -> tuple[list[list[dict[str, Any]]], SetCatalogue]:
    """Mixed controls for a batch, the first row without any, and the sets that they name."""
    draw = random.Random(seed)
    sets = SetCatalogue({name: concept_set(loaded, name, seed + n) for n, name in enumerate(("one", "two"))})
    return [
        [],
        *([random_control(loaded, draw, sets.names()) for _ in range(draw.randint(1, 4))] for _ in range(rows)),
    ], sets


def lengths(seed: int, rows: int, tokens: int = 6) -> list[int]:
    """Tokens of each row's prompt; one is the longest."""
    draw = random.Random(seed)
    return [tokens, *(draw.randint(1, tokens) for _ in range(rows - 1))]


def run(loaded: LoadedModel, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Greedy tokens (rows, steps) and logits (rows, steps, vocabulary); of an encoder the logits of its positions."""
    model: Any = loaded.model
    with torch.inference_mode():
        if loaded.family == "encoder-only":
            logits = model(**inputs).logits.float()
            return logits.argmax(-1), logits
        found = model.generate(
            **{k: v for k, v in inputs.items() if k != "decoder_input_ids"},
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            num_beams=1,
            suppress_tokens=[PAD],
            output_logits=True,
            return_dict_in_generate=True,
        )
        logits = torch.stack(found.logits, 1).float()
        return found.sequences[:, -logits.shape[1] :], logits


def one_row(inputs: Inputs, row: int) -> Inputs:
    """A row without its padding."""
    real = inputs["attention_mask"][row].bool()
    return {k: inputs[k][row : row + 1, real] for k in ("input_ids", "attention_mask")}


def compare(loaded: LoadedModel, seed: int, side: str, rows: int = 3, check_logits: bool = True) -> Outcome:
    """Runs a random batch under random controls together, and every row alone by the reference."""
    raw, sets = random_batch(loaded, seed, rows)
    inputs = inputs_for(loaded.model, rows + 1, lengths=lengths(seed, rows + 1), padding_side=side, seed=seed)
    inputs = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    plans = [compile_controls(loaded, parse_controls(row), sets) if row else None for row in raw]
    with controlled(loaded, plans) as applied:
        tokens, logits = run(loaded, inputs)
    outcome = Outcome()
    for row in range(rows + 1):
        alone = one_row(inputs, row)
        real = inputs["attention_mask"][row].bool()
        mine = (tokens[row], logits[row])
        if loaded.family == "encoder-only":
            mine = (tokens[row, real], logits[row, real])
        reference = Reference(loaded, parse_controls(raw[row]), sets, alone["input_ids"].shape[1])
        with reference.hooked():
            expected = run(loaded, alone)
        here = f"{loaded.sites.model_type}, seed {seed}, {side}, row {row}: {raw[row]}"
        found, whole = _compare_row(reference, mine, (expected[0][0], expected[1][0]), here, check_logits)
        if whole and not found.failures and reference.margin > NEAR:
            found += _compare_report(reference, applied.report(row), here)
        outcome += found
    return outcome


def equal_tokens(loaded: LoadedModel, seed: int, side: str, rows: int = 3) -> tuple[int, int]:
    """Of a random batch's tokens, how many are those of the rows' solo runs under the same runtime, and and all."""
    raw, sets = random_batch(loaded, seed, rows)
    inputs = inputs_for(loaded.model, rows + 1, lengths=lengths(seed, rows + 1), padding_side=side, seed=seed)
    inputs = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    plans = [compile_controls(loaded, parse_controls(row), sets) if row else None for row in raw]
    with controlled(loaded, plans):
        tokens, _ = run(loaded, inputs)
    equal = total = 0
    for row, plan in enumerate(plans):
        with controlled(loaded, [plan]):
            alone = run(loaded, one_row(inputs, row))[0][0]
        mine = tokens[row]
        if loaded.family == "encoder-only":
            mine = mine[inputs["attention_mask"][row].bool()]
        equal, total = equal + int((mine[: len(alone)] == alone).sum()), total + len(alone)
    return equal, total


def _compare_row(
    reference: Reference,
    mine: tuple[torch.Tensor, torch.Tensor],
    expected: tuple[torch.Tensor, torch.Tensor],
    here: str,
    check_logits: bool,
) -> tuple[Outcome, bool]:
    """Step by step up to the row's end; also says whether the whole row was compared."""
    generates = reference.loaded.family != "encoder-only"
    equal = 0
    for step in range(len(expected[0])):
        best, second = expected[1][step].topk(2).values.tolist()
        bound = TOLERANCE * max(1.0, float(expected[1][step].abs().max()))
        distance = float((mine[1][step] - expected[1][step]).abs().max())
        near = best - second < NEAR or reference.margin < NEAR
        if int(mine[0][step]) != int(expected[0][step]) or (check_logits and not distance <= bound):
            left = len(expected[0]) - step if generates else 1
            if near:
                return Outcome(equal, left), False
            return Outcome(equal, 0, (f"{here}: step {step}: logits {distance:.2g} apart",)), False
        equal += 1
        if generates and int(expected[0][step]) == EOS:
            break
    return Outcome(equal), True


def _compare_report(reference: Reference, report: dict[str, Any] | None, here: str) -> Outcome:
    for number, control in enumerate(report["controls"] if report else ()):
        acted = reference.positions.get(number, {})
        for site, counts in control["sites"].items():
            if counts["positions"] != acted.get(site, 0):
                return Outcome(0, 0, (f"{here}: control {number} at {site}: {counts}, not {acted.get(site, 0)}",))
        if "trigger" in control and control["trigger"]["fired_at"] != reference.fired_at.get(number, []):
            return Outcome(0, 0, (f"{here}: {control['trigger']}, not {reference.fired_at.get(number, [])}",))
    return Outcome()


def supported_sides(loaded: LoadedModel) -> list[str]:
    """The padding sides on which the unhooked model gives every row what it gives it alone."""
    return [side for side in ("left", "right") if _exact(loaded, side)]


def _exact(loaded: LoadedModel, side: str) -> bool:
    inputs = inputs_for(loaded.model, 3, lengths=[6, 2, 4], padding_side=side)
    inputs = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    _, logits = run(loaded, inputs)
    for row in range(3):
        _, alone = run(loaded, one_row(inputs, row))
        real = inputs["attention_mask"][row].bool()
        here = logits[row, real] if loaded.family == "encoder-only" else logits[row, : alone.shape[1]]
        steps = min(len(here), alone.shape[1])
        if not float((here[:steps] - alone[0, :steps]).abs().max()) <= TOLERANCE * max(1.0, float(alone.abs().max())):
            return False
    return True
