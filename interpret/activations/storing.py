"""Writing an activation store, window by window: constant memory, resumable, nothing half-written.

See `interpret.activations.store` for what lies on the disk.
"""

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import islice, tee
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import save

from neurodial.control.addresses import Stack
from neurodial.control.artifacts.files import write_atomically
from neurodial.control.artifacts.neuron_set import NONE_CLASS
from neurodial.control.errors import StoreError
from neurodial.control.models.loading import LoadedModel
from neurodial.interpret.activations.blocks import COLUMNS, Block, Level, join_blocks
from neurodial.interpret.activations.extract import Extraction, extract_window, windows
from neurodial.interpret.activations.left_out import LeftOut
from neurodial.interpret.activations.store import CORPUS_FIELDS, MANIFEST, ActivationStore
from neurodial.interpret.common.executors import Executor
from neurodial.interpret.common.progress import progress
from neurodial.interpret.corpora.corpus import Corpus, Example

Array = np.ndarray[Any, Any]
Tokens = Literal["all", "words", "labelled"]
Produced = Iterator[Block | LeftOut]  # of a window: its blocks, and what has no rows
Produce = Callable[[list[Example]], Produced]
PART_VALUES = 16_000_000  # numbers of a part: 64 MB of float32
STORED: dict[str, type[np.floating[Any]]] = {"float32": np.float32, "float16": np.float16}
LEFT_OVER = (".part-*", f".{MANIFEST}.*")  # of writing that was stopped


def extract_to_store(
    loaded: LoadedModel,
    corpus: Corpus,
    plan: Extraction,
    folder: str | Path,
    *,
    dtype: str = "float32",
    tokens: Tokens = "all",
    produce: Produce | None = None,
    origin: str = "model",
    executor: Executor | None = None,
) -> ActivationStore:
    """Writes a corpus's activations, or goes on where an earlier run with the same settings stopped.

    Args:
        loaded: the model.
        corpus: any corpus.
        plan: sites and levels.
        folder: a new one, or one that an earlier run began.
        dtype: of the stored values, float32 or float16.
        tokens: `all` rows, those that are part of `words`, or those that carry one of the corpus's labels (`labelled`).
        produce: gives the blocks of a window of examples; by default the model is run.
        origin: where they come from, part of the settings.
        executor: runs the model over the windows; by default it is run here, with the same result.

    Raises:
        StoreError: if the folder holds something else, the disk is full or cannot be written, or a value is too large
            for float16.
        FingerprintError: if it holds another model's activations.
    """
    if dtype not in STORED:
        raise StoreError(f"{dtype!r} cannot be stored", hint=f"one of {', '.join(STORED)}")
    chosen = {"tokens": tokens, "stored_in": dtype, "origin": origin}
    store, is_new = _begun(loaded, corpus, plan, Path(folder), chosen)
    run = partial(_produced, classes=(NONE_CLASS, *corpus.labels), plan=plan, tokens=tokens)

    def made(todo: Iterator[list[Example]]) -> Iterator[Iterable[Block | LeftOut]]:
        if produce is not None:
            return map(produce, todo)
        return executor.map(run, todo) if executor is not None else (run(loaded, window) for window in todo)

    try:
        if is_new:
            store.folder.mkdir(parents=True, exist_ok=True)
            store.save()
        store = _extend(corpus, plan.window, made, store)
    except BaseException as error:
        done = _remove_unlisted(store.folder)
        if is_new and not done:
            _remove_empty(store.folder)
        if isinstance(error, OSError):
            raise _unwritable(folder, error, done, corpus) from error
        raise
    store.left_out.warn(corpus.name)
    return store


def _unwritable(folder: str | Path, error: OSError, done: int, corpus: Corpus) -> StoreError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StoreError(
        f"{folder}: {'the disk is full' if full else f'cannot be written ({error.strerror})'} after {done:,} of "
        f"{corpus.size:,} examples",
        hint="make room and run the same command again" + (": it goes on from there" if done else ""),
    )


def _begun(
    loaded: LoadedModel, corpus: Corpus, plan: Extraction, folder: Path, chosen: dict[str, str]
) -> tuple[ActivationStore, bool]:
    """The store of an earlier run with the same settings, or a new one, and whether it is new."""
    settings = asdict(plan) | {
        "sites": [str(site) for site in plan.sites],
        "levels": list(plan.levels),
        "computed_in": str(loaded.model.dtype).removeprefix("torch."),
        **chosen,
    }
    about = {name: getattr(corpus, name) for name in CORPUS_FIELDS} | {"labels": list(corpus.labels)}
    fresh = ActivationStore(folder, {"name": loaded.name, "fingerprint": loaded.fingerprint}, about, settings)
    if not (folder / MANIFEST).exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StoreError(f"{folder}: it holds something else", hint="name a new folder")
        return fresh, True
    known = ActivationStore.open(folder)
    replace(known, examples=int(known.corpus["size"])).check(loaded, corpus)
    for name, value in settings.items():
        if known.settings.get(name) != value:
            raise StoreError(
                f"{folder}: it was begun with {name}={known.settings.get(name)!r}, not {value!r}",
                hint="use the same settings, or another folder",
            )
    return known, False


def _produced(
    loaded: LoadedModel, window: list[Example], *, classes: tuple[str, ...], plan: Extraction, tokens: Tokens
) -> Produced:
    """The rows of a window that are kept, and at the end what has none."""
    left_out = LeftOut()
    for block in extract_window(loaded, window, classes, plan, left_out):
        yield _filtered(block, tokens)
    yield left_out


def _extend(
    corpus: Corpus,
    size: int,
    produce: Callable[[Iterator[list[Example]]], Iterator[Iterable[Block | LeftOut]]],
    store: ActivationStore,
) -> ActivationStore:
    """Runs the windows that are not done, and writes them down one after the other."""
    _remove_unlisted(store.folder)
    todo, ahead = tee(islice(windows(corpus, size), store.windows, None))
    with progress("Activations", len(corpus)) as advance:
        advance(store.examples)
        for window, blocks in zip(todo, produce(ahead), strict=True):
            left_out = replace(store.left_out)
            parts = _written(store, blocks, left_out)
            done = store.examples + len(window)
            store = replace(
                store, parts=store.parts | parts, left_out=left_out, examples=done, windows=store.windows + 1
            )
            store.save()
            advance(len(window))
    return store


def _written(
    store: ActivationStore, blocks: Iterable[Block | LeftOut], left_out: LeftOut
) -> dict[str, tuple[Stack, Level, int]]:
    """Writes a window's blocks as parts of one stack and level each, and adds up what has no rows."""
    waiting: dict[tuple[Stack, Level], list[Block]] = {}
    sizes: dict[tuple[Stack, Level], int] = {}
    parts: dict[str, tuple[Stack, Level, int]] = {}

    def flush(key: tuple[Stack, Level]) -> None:
        joint, sizes[key] = join_blocks(waiting.pop(key)), 0
        name = f"part-{len(store.parts) + len(parts):06d}.safetensors"
        write_atomically(store.folder / name, save(_tensors(store, joint)))
        parts[name] = (*key, len(joint))

    for block in blocks:
        if isinstance(block, LeftOut):
            left_out.merge(block)
            continue
        kept = _filtered(block, store.settings["tokens"])
        if len(kept):
            key = (kept.stack, kept.level)
            waiting.setdefault(key, []).append(kept)
            sizes[key] = sizes.get(key, 0) + sum(x.size for x in kept.values.values())
            if sizes[key] >= PART_VALUES:
                flush(key)
    for key in list(waiting):
        flush(key)
    return parts


def _filtered(block: Block, tokens: Tokens) -> Block:
    if tokens == "all" or (tokens == "words" and block.level == "sentence"):
        return block
    return block.where(block.words >= 0 if tokens == "words" else block.labels > 0)


def _tensors(store: ActivationStore, block: Block) -> dict[str, Array]:
    kind = STORED[store.settings["stored_in"]]
    tensors: dict[str, Array] = {column: getattr(block, column) for column in COLUMNS}
    for site, x in block.values.items():
        with np.errstate(over="ignore"):
            tensors[str(site)] = np.ascontiguousarray(x.astype(kind))
        if not np.isfinite(tensors[str(site)]).all():
            raise StoreError(
                f"{site}: activations up to {np.abs(x).max():.4g} do not fit into float16", hint="store float32"
            )
    return tensors


def _remove_unlisted(folder: Path) -> int:
    """Removes what a run that was stopped left over; the number of examples that are done."""
    begun = (folder / MANIFEST).exists()
    store = ActivationStore.open(folder) if begun else None
    for pattern in ("part-*", *LEFT_OVER):
        for file in folder.glob(pattern):
            if store is None or file.name not in store.parts:
                file.unlink()
    return store.examples if store else 0


def _remove_empty(folder: Path) -> None:
    """Removes a store that holds nothing."""
    (folder / MANIFEST).unlink(missing_ok=True)
    if folder.is_dir():
        folder.rmdir()
