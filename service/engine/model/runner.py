"""The rows of a running batch: their tokens, their cache and their controls, kept in step with one another."""

import time
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items
from contextlib import contextmanager
from typing import Any

import torch

from neurodial.control.distilled.head import Head
from neurodial.control.models.loading import LoadedModel
from neurodial.control.runtime.batch import BatchController
from neurodial.service.engine.model.forward.capturing import capture
from neurodial.service.engine.model.forward.passes import CausalPasses, Step, TranslationPasses
from neurodial.service.engine.model.kv_cache import KVCache, RowCache
from neurodial.service.engine.model.reading import Pieces, Reader
from neurodial.service.engine.model.running import NextTokens, RunningSequence
from neurodial.service.engine.model.sampling import ModelDefaults, likeliest
from neurodial.service.engine.sequence import Sequence
from neurodial.service.engine.stepping import Outcome
from neurodial.service.engine.text import TokenTexts
from neurodial.service.engine.types import NOTHING_APPLIED


class ModelRunner:
    """Makes the tokens of one model's rows, which join and leave between steps; see `stepping.Runner`.

    Args:
        loaded: the model.
        defaults: its generation settings.
        max_rows: rows at once, at most.
        cache: where keys and values are kept.
        texts: what tokens add to a text.
        pieces: tokens as the vocabulary writes them.
        head: of a distilled model: its classifier.
        compiles: the decoding step, where the model and the machine allow that.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        defaults: ModelDefaults,
        max_rows: int,
        cache: RowCache | None,
        texts: TokenTexts,
        pieces: Pieces,
        head: Head | None = None,
        *,
        compiles: bool = False,
    ) -> None:
        self._defaults, self._texts = defaults, texts
        self._device = loaded.model.device
        self._controls = BatchController(loaded, max_rows)
        self._cache = cache or KVCache()
        self._reader = Reader(loaded, self._controls, pieces, texts, head)
        self._passes: CausalPasses | TranslationPasses = (
            TranslationPasses(loaded, self._controls)
            if defaults.start is not None
            else CausalPasses(loaded, self._controls)
        )
        if compiles:
            capture(self._passes, loaded, self._controls)
        self._banned = torch.tensor(defaults.banned, device=self._device) if defaults.banned else None
        self._free = list(reversed(range(max_rows)))
        self._running: dict[Sequence, RunningSequence] = {}
        self._slots: list[int] = []  # of every row, as the three that follow
        self._tokens: list[int] = []
        self._steps: list[int] = []
        self._lengths = torch.zeros(0, dtype=torch.long, device=self._device)
        self._moves: dict[int, int] = {}  # rows that become what others were: of beam searches, at the next commit
        self._has_pass = False

    @torch.inference_mode()
    def advance(self, sequences: Items[Sequence]) -> list[Outcome]:
        """One more token for each; see `Runner.advance`."""
        running = [self._running[sequence] for sequence in sequences]
        step, places = self._step_of(running)
        try:
            logits = self._passes.step(step, self._cache)
            choices = self._choose(running, places, logits)
        except Exception:
            self._controls.discard()
            raise
        self._controls.confirm()
        self._has_pass = True
        return [self._take(one, choice) for one, choice in zip(running, choices, strict=True)]

    def _step_of(self, running: Items[RunningSequence]) -> tuple[Step, list[list[int]]]:
        """The next pass of some sequences, and where each one's rows are in it."""
        rows = [row for one in running for row in one.rows]
        if len(rows) == self._cache.num_rows:
            fed = torch.tensor(self._tokens, device=self._device)
            return Step(None, tuple(self._slots), fed, self._lengths, self._steps), [one.rows for one in running]
        slots, tokens, steps = ([values[row] for row in rows] for values in (self._slots, self._tokens, self._steps))
        places = {row: place for place, row in enumerate(rows)}
        step = Step(rows, tuple(slots), torch.tensor(tokens, device=self._device), self._lengths[rows], steps)
        return step, [[places[row] for row in one.rows] for one in running]

    @torch.inference_mode()
    def commit(self) -> None:
        """Lengthens all rows by the token that they were fed; see `Runner.commit`."""
        if not self._has_pass:
            return
        self._has_pass = False
        self._cache.commit()
        self._lengths = self._lengths + 1
        self._steps = [step + 1 for step in self._steps]
        if any(row != origin for row, origin in self._moves.items()):
            self._cache.reorder([self._moves.get(row, row) for row in range(self._cache.num_rows)])
        self._moves = {}

    @property
    def makes_first_tokens(self) -> bool:
        """Whether `join` makes the first tokens, rather than the next `advance`."""
        return self._passes.makes_first_token

    @torch.inference_mode()
    def join(self, sequences: Items[Sequence]) -> list[Outcome]:
        """Reads texts and prompts; see `Runner.join`."""
        read = [s for s in sequences if s.request.task != "generate"]
        written = [s for s in sequences if s.request.task == "generate"]
        outcomes = self._read(read) if read else []
        try:
            return outcomes + (self._start(written) if written else [])
        except Exception:
            self.release(read)  # or those that are read again would leave their slots behind
            raise

    def _start(self, sequences: Items[Sequence]) -> list[Outcome]:
        """Reads prompts, which become rows."""
        choices: list[NextTokens] = []
        with self._entering(sequences) as started:
            prompts = [sequence.prepared.prompt_ids for sequence in sequences]
            first = self._passes.prefill(prompts, [one.slots[0] for one in started])
            if first.logits is not None:
                choices = self._choose(started, [[place] for place in range(len(started))], first.logits)
            self._cache.join(first.cache, first.lengths, first.sources, [len(one.slots) for one in started])
        for one in started:
            one.rows = list(range(len(self._slots), len(self._slots) + len(one.slots)))
            self._slots += one.slots
            self._tokens += [one.sequence.prepared.start or 0] * len(one.slots)
        added = self._cache.num_rows - len(self._steps)
        self._steps += [int(self.makes_first_tokens)] * added
        self._lengths = torch.tensor(self._cache.lengths, device=self._device)
        if not choices:
            return [Outcome(sequence) for sequence in sequences]
        outcomes = [self._take(one, choice) for one, choice in zip(started, choices, strict=True)]
        self._moves = {}  # a new search's rows are all alike
        return outcomes

    def _read(self, sequences: Items[Sequence]) -> list[Outcome]:
        """Reads texts, each in one pass, for their pooled states or the activations of neurons."""
        with self._entering(sequences) as started:
            return self._reader.read(sequences, [one.slots[0] for one in started])

    def applied(self, sequence: Sequence) -> Mapping[str, Any]:
        """What a sequence's controls did; of a beam search those of its first row."""
        one = self._running.get(sequence)
        return (self._controls.report(one.slots[0]) if one else None) or NOTHING_APPLIED

    @torch.inference_mode()
    def release(self, sequences: Items[Sequence]) -> None:
        """Frees and clears rows; those at the end take their places."""
        gone = [self._running.pop(sequence) for sequence in sequences if sequence in self._running]
        self._free_slots(gone)
        dead = {row for one in gone for row in one.rows}
        if not dead:
            return
        count = self._cache.num_rows
        rows = list(range(count - len(dead)))
        movers = (row for row in range(len(rows), count) if row not in dead)
        rows = [next(movers) if row in dead else row for row in rows]
        self._cache.select(rows)
        self._slots, self._tokens, self._steps = (
            [values[row] for row in rows] for values in (self._slots, self._tokens, self._steps)
        )
        self._lengths = self._lengths[rows]
        places = {origin: row for row, origin in enumerate(rows)}
        for one in self._running.values():
            one.rows = [places[row] for row in one.rows]

    @contextmanager
    def _entering(self, sequences: Items[Sequence]) -> Iterator[list[RunningSequence]]:
        """Sequences with slots, for their first pass: they run after it, or have left no trace where it raises."""
        started = self._with_slots(sequences)
        try:
            yield started
        except Exception:
            self._controls.discard()
            self._free_slots(started)
            raise
        self._controls.confirm()
        self._running.update({one.sequence: one for one in started})

    def _with_slots(self, sequences: Items[Sequence]) -> list[RunningSequence]:
        """Takes slots for sequences and puts their controls into them."""
        started: list[RunningSequence] = []
        try:
            for sequence in sequences:
                slots = [self._free.pop() for _ in range(sequence.num_rows)]
                started.append(RunningSequence(sequence, slots, self._defaults, self._device))
                began = time.perf_counter()
                for slot in slots:
                    self._controls.place(slot, sequence.prepared.plan)
                sequence.apply_s = time.perf_counter() - began
        except Exception:
            self._free_slots(started)
            raise
        return started

    def _free_slots(self, gone: Items[RunningSequence]) -> None:
        for one in gone:
            for slot in one.slots:
                self._controls.remove(slot)
                self._free.append(slot)

    def _choose(
        self, running: Items[RunningSequence], rows: Items[Items[int]], logits: torch.Tensor
    ) -> list[NextTokens]:
        """What every sequence makes of its rows of a pass's logits; changes nothing."""
        allowed = logits
        if self._banned is not None:  # in place, where nobody else reads them: a copy costs as much as the arg max
            are_plain = all(one.is_plain for one in running)
            allowed = (logits.index_fill_ if are_plain else logits.index_fill)(1, self._banned, -torch.inf)
        best = likeliest(allowed)
        return [one.choose(logits, places, best, self._texts) for one, places in zip(running, rows, strict=True)]

    def _take(self, one: RunningSequence, choice: NextTokens) -> Outcome:
        outcome, beams = one.take(choice)
        if beams is None:
            if choice.tokens:  # none where the row has failed
                self._tokens[one.rows[0]] = choice.tokens[0]
        elif beams.tokens:
            for row, token, parent in zip(one.rows, beams.tokens, beams.parents, strict=True):
                self._tokens[row], self._moves[row] = token, one.rows[parent]
        return outcome
