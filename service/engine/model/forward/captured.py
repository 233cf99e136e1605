"""A decoding step that is compiled, for batches of any size, with the controls inside the compiled graph.

Inductor fuses what lies between a small model's matrix products and packs their weights for the CPU. At every site of
the decoder the graph calls one custom operation, which does what the hook of the site does in eager passes: every
control works, acts at the same positions and is counted alike.
"""

from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch._inductor.config
import torch.fx.experimental._config
from torch.nn import functional
from transformers import Cache, EncoderDecoderCache
from transformers.cache_utils import CacheLayerMixin

from neurodial.control.errors import InternalError
from neurodial.control.models.hooks import SiteFunction, hook_site
from neurodial.control.models.loading import LoadedModel
from neurodial.control.runtime.batch import BatchController
from neurodial.service.engine.model.forward.direct import DirectStep
from neurodial.service.engine.model.forward.masks import Mask
from neurodial.service.engine.model.kv_cache import KVCache, RowCache
from neurodial.service.engine.model.kv_store import LayerTensors

_inductor: Any = torch._inductor.config  # makes their `patch` by themselves
_shapes: Any = torch.fx.experimental._config

# Freezing packs the weights for the CPU; the C++ wrapper leaves Python out between kernels.
_INDUCTOR: dict[str, Any] = {"freezing": True, "cpp_wrapper": True}

_steps: "WeakValueDictionary[int, CapturedStep]" = WeakValueDictionary()
_library = torch.library.Library("neurodial", "DEF")
_library.define("site(Tensor(a!) x, int step, int site) -> ()")
_library.impl("site", lambda x, step, site: _steps[step].act(x, site), "CPU")
_library.impl("site", lambda x, step, site: None, "Meta")


class CapturedStep:
    """One more token for every row; `DirectStep` compiled.

    Args:
        direct: the same step, eager.
        loaded: the model, on a CPU.
        controls: of its batches.
        backend: of torch.compile.

    Attributes:
        visits: times that a site was passed, of each of the decoder's.
    """

    def __init__(
        self,
        direct: DirectStep,
        loaded: LoadedModel,
        controls: BatchController,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        self._direct, self._controls = direct, controls
        self._infos = loaded.sites.of("decoder")
        self._dtype = loaded.model.dtype
        self.visits = [0] * len(self._infos)
        self._is_compiling = False
        self._number = max(_steps, default=0) + 1
        _steps[self._number] = self
        # Graphs are kept by code object, so that every model needs its own. A graph asks for what batches differ in
        # alone: the model stays as it is, and the hooks that it was traced with are gone.
        own = FunctionType(CapturedStep._logits.__code__.replace(), globals())
        self._compiled = torch.compile(
            MethodType(own, self),
            fullgraph=True,
            backend=backend,
            options={"guard_filter_fn": _of_batches},
        )

    def compile(self, tokens: torch.Tensor, positions: torch.Tensor, cache: RowCache) -> torch.Tensor:
        """The logits of a first batch, for which a graph is made; batches like it use the same graph from then on."""
        hooks = [hook_site(info, self._visit(number)) for number, info in enumerate(self._infos)]
        try:
            self._is_compiling = True
            # Sizes that are equal here need not be equal later.
            with _inductor.patch(_INDUCTOR), _shapes.patch(use_duck_shape=False):
                return self._run(tokens, positions, cache, None, None)
        finally:
            self._is_compiling = False
            for hook in hooks:
                hook.remove()

    def fits(self, rows: Items[int] | None, cache: RowCache) -> bool:
        """Whether there is a graph for the step of some rows (None is all)."""
        has_windows = rows is None and isinstance(cache, KVCache)
        return has_windows and cache.width > 0 and cache.source_width != 1  # a size of one is a graph of its own

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        cache: RowCache,
        mask: Mask | None,
        source_mask: Mask | None = None,
    ) -> torch.Tensor:
        """Logits (rows, vocabulary); see `DirectStep`. A batch for which there is no graph makes an eager step."""
        with torch.compiler.set_stance("eager_on_recompile"):
            return self._run(tokens, positions, cache, mask, source_mask)

    def act(self, x: torch.Tensor, site: int) -> None:
        """Gives a site the values that the controls of the batch want there."""
        self.visits[site] += 1
        intervention = self._controls.intervention(self._infos[site].site)
        new = intervention(x) if intervention is not None else None
        if new is not None:
            x.copy_(new)

    def _visit(self, site: int) -> SiteFunction:
        def visit(x: torch.Tensor) -> torch.Tensor:
            torch.ops.neurodial.site(x, self._number, site)
            return x

        return visit

    def _run(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        cache: RowCache,
        mask: Mask | None,
        source_mask: Mask | None,
    ) -> torch.Tensor:
        if not isinstance(cache, KVCache):
            raise InternalError("a compiled step reads preallocated tensors")
        own, sources = cache.windows()
        rows = len(tokens)
        added = mask.added if mask else self._open(rows, cache.width + 1)
        source_added = (source_mask.added if source_mask else self._open(rows, cache.source_width)) if sources else None
        if self._is_compiling:
            masks = [added] if source_added is None else [added, source_added]
            kept = [tensor for pair in own + sources for tensor in pair]
            _let_vary([tokens, positions, *masks, *kept], {2: kept, 3: masks})
        logits: torch.Tensor = self._compiled(tokens, positions, own, sources, added, source_added)
        return logits

    def _open(self, rows: int, columns: int) -> torch.Tensor:
        return torch.zeros(rows, 1, 1, columns, dtype=self._dtype)

    def _logits(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        own: LayerTensors,
        sources: LayerTensors,
        mask: torch.Tensor,
        source_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """What is compiled."""
        cache: Any = Cache(layers=[_Window(*pair) for pair in own])
        if sources:
            cache = EncoderDecoderCache(cache, Cache(layers=[_Window(*pair) for pair in sources]))
            cache.is_updated = dict.fromkeys(range(len(sources)), True)
        states = self._direct.states(tokens, positions, cache, mask, source_mask)
        head, bias = self._direct.head, self._direct.bias
        logits = functional.linear(states, head.weight, head.bias)[:, 0].float()
        return logits if bias is None else logits + bias


def _let_vary(rows: Items[torch.Tensor], columns: Mapping[int, Items[torch.Tensor]]) -> None:
    """Says in what sizes batches differ, which a graph must therefore not take as given.

    Args:
        rows: tensors whose first dimension is the batch's rows; one row is a graph of its own.
        columns: dimension → tensors of which it is a number of tokens.
    """
    for tensor in rows:
        if len(tensor) > 1:
            torch._dynamo.mark_dynamic(tensor, 0)
    for dimension, tensors in columns.items():
        for tensor in tensors:
            torch._dynamo.mark_dynamic(tensor, dimension)


def _of_batches(guards: Items[Any]) -> list[bool]:
    """Which guards of a graph are kept: those that name the model or globals are not."""
    return [not any(part in guard.name for part in ("self", "G[")) for guard in guards]


class _Window(CacheLayerMixin):
    """One layer's keys and values, of which the last column is to be written."""

    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is left to do."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        """Writes one token of every row."""
        self.keys[:, :, -1].copy_(key_states[:, :, 0])
        self.values[:, :, -1].copy_(value_states[:, :, 0])
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Columns that the mask covers, and where they start."""
        return self.keys.shape[2], 0

    def get_seq_length(self) -> int:
        """Columns."""
        return int(self.keys.shape[2])

    def get_max_length(self) -> int:
        """There is no limit."""
        return -1
