"""An architecture without a row, read from its structure.

The parts are proposed by shape and by order of execution, and then verified by watching in a dry run on a few tokens
what depends on what. Whatever is ambiguous is refused.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from neurodial.control.addresses import Stack
from neurodial.control.models.architectures import ArchitectureRow, AttentionRow, Family, FfnRow, Layout, StackRow
from neurodial.control.models.dryrun import TOKENS, DryRun, Trace
from neurodial.control.models.linear import is_linear, width_in, width_out
from neurodial.control.models.moe import expert_blocks

WIDTHS = ("intermediate_size", "{stack}_ffn_dim", "ffn_dim", "ffn_hidden_size", "d_ff", "n_inner", "hidden_dim")
HEADS = ("{stack}_attention_heads", "num_attention_heads", "num_heads", "n_head")
ROUNDING = 0.01
KV_HEADS = ("num_key_value_heads", "num_kv_heads")


class Ambiguous(Exception):
    """Why a structure cannot be told; it becomes part of the error that a user sees."""


@dataclass(frozen=True)
class _Pair:
    """Linear modules that read the same and the projection that what they make flows into; paths in a layer."""

    into: tuple[str, ...]
    out: str


def row_from_structure(model: PreTrainedModel) -> ArchitectureRow:
    """Reads and verifies where the sites of a model are.

    Raises:
        Ambiguous: if they cannot be told for sure.
    """
    try:
        run = DryRun(model)
        lists = _lists_of_layers(run.base)
        trace = run.trace(_watched(run.base, lists))
        lists = [path for path in lists if f"{path}.0" in trace.calls]  # those of images and sounds do not run on text
        wanted = 2 if model.config.is_encoder_decoder else 1
        if len(lists) != wanted:
            raise Ambiguous(f"it has {len(lists)} lists of layers ({', '.join(lists) or 'none'}), not {wanted}")
        lists.sort(key=lambda path: trace.calls.index(f"{path}.0"))
        family = _family(model, run, trace, lists)
        stacks: tuple[Stack, ...] = (
            ("encoder", "decoder") if wanted == 2 else ("decoder",) if family == "decoder-only" else ("encoder",)
        )
        rows = [_Reader(run, trace, stack, path).row() for stack, path in zip(stacks, lists, strict=True)]
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise Ambiguous(f"a dry run on a few tokens failed ({line})") from error
    return ArchitectureRow(family, tuple(rows))


def _lists_of_layers(base: nn.Module) -> list[str]:
    """Outermost lists of modules that hold linear modules."""
    found: list[str] = []
    for path, module in base.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) and not inside and any(map(is_linear, module.modules())):
            found.append(path)
    return found


def _watched(base: nn.Module, lists: Sequence[str]) -> list[str]:
    names = {""}
    for path in lists:
        parts = path.split(".")
        names |= {".".join(parts[:n]) for n in range(1, len(parts))}
        layers: Any = base.get_submodule(path)
        for number, layer in enumerate(layers):
            names.add(f"{path}.{number}")
            blocks = tuple(f"{block}." for block in expert_blocks(layer))
            names |= {
                f"{path}.{number}.{name}"
                for name, module in layer.named_modules()
                if is_linear(module) and not (blocks and name.startswith(blocks))
            }
    return sorted(names)


def _family(model: PreTrainedModel, run: DryRun, trace: Trace, lists: Sequence[str]) -> Family:
    """A decoder's earlier positions do not depend on later tokens, an encoder's do."""
    if model.config.is_encoder_decoder:
        return "encoder-decoder"
    layers: Any = run.base.get_submodule(lists[0])
    name = f"{lists[0]}.{len(layers) - 1}"
    moved = (trace.returned[name] - run.after_another_last_token(name)).float().abs()
    causal = bool(moved[:, :-1].max() < ROUNDING * moved[:, -1].max())  # experts differ by rounding in another batch
    if model.can_generate() and not causal:
        raise Ambiguous("it generates, but its earlier positions depend on later tokens")
    return "decoder-only" if causal else "encoder-only"


class _Reader:
    """Reads one stack."""

    def __init__(self, run: DryRun, trace: Trace, stack: Stack, path: str) -> None:
        self.run, self.trace, self.stack, self.path = run, trace, stack, path
        self.config = run.model.config.get_text_config()
        self.hidden = int(self.config.hidden_size)
        layers: Any = run.base.get_submodule(path)
        self.layers: list[nn.Module] = list(layers)

    def row(self) -> StackRow:
        self._check_chain()
        pairs = [self._pairs(number) for number in range(len(self.layers))]
        experts = [bool(expert_blocks(layer)) for layer in self.layers]
        sample = experts.index(False) if False in experts else 0
        attention = [p for p in pairs[sample] if not self._is_elementwise(sample, p)]
        others = [p for p in pairs[sample] if p not in attention]
        for number, found in enumerate(pairs):
            if found != (attention if experts[number] else pairs[sample]):
                raise Ambiguous(f"{self.path}.{number} is built otherwise than {self.path}.{sample}")
        if len(others) != (not all(experts)):
            raise Ambiguous(f"{self.path}.{sample} has {len(others)} feed-forward networks")
        crosses = [p for p in attention if self._reads_the_encoder(sample, p)]
        selves = [p for p in attention if p not in crosses]
        if len(selves) != 1 or len(crosses) != self._is_second():
            raise Ambiguous(f"{self.path}.{sample} has {len(selves)} self-attentions and {len(crosses)} to an encoder")
        return StackRow(
            self.stack,
            self._container(),
            self.path,
            self._ffn(sample, others[0]) if others else None,
            self._attention(sample, selves[0]),
            self._attention(sample, crosses[0]) if crosses else None,
        )

    def _check_chain(self) -> None:
        """Every layer runs once, in order, on what the one before returned."""
        names = [f"{self.path}.{number}" for number in range(len(self.layers))]
        calls = [name for name in self.trace.calls if name in set(names)]
        if calls != names:
            raise Ambiguous(f"the layers of {self.path} do not run once each and in order")
        for before, after in pairwise(names):
            if not torch.equal(self.trace.returned[before], self.trace.received[after]):
                raise Ambiguous(f"{after} does not receive what {before} returns")
        if any(self.trace.returned[name].shape[2:] != (self.hidden,) for name in names):
            raise Ambiguous(f"the layers of {self.path} do not return (batch, tokens, {self.hidden})")

    def _container(self) -> str:
        """The innermost module around the layers that is called with token ids and their mask."""
        parts = self.path.split(".")
        expected = self.run.inputs["decoder_input_ids" if self._is_second() else "input_ids"]
        for depth in reversed(range(len(parts))):
            name = ".".join(parts[:depth])
            arguments = self.trace.arguments.get(name, {})
            ids, mask = arguments.get("input_ids"), arguments.get("attention_mask")
            masked = self._is_second() or (isinstance(mask, torch.Tensor) and mask.dim() == 2)
            if masked and isinstance(ids, torch.Tensor) and torch.equal(ids, expected):
                return name
        raise Ambiguous(f"no module around {self.path} is called with input_ids and attention_mask")

    def _is_second(self) -> bool:
        return self.stack == "decoder" and bool(self.config.is_encoder_decoder)

    def _pairs(self, number: int) -> list[_Pair]:
        """Groups of linear modules that read the same, up to the single one that leads back to the hidden width."""
        prefix = f"{self.path}.{number}."
        called = [name for name in self.trace.calls if name.startswith(prefix)]
        if len(set(called)) != len(called):
            raise Ambiguous(f"modules of {prefix[:-1]} run more than once")
        pairs: list[_Pair] = []
        pending: list[str] = []
        for group in self._groups(called):
            module = self.run.base.get_submodule(group[0])
            if pending and len(group) == 1 and width_out(module) == self.hidden:
                pairs.append(_Pair(tuple(n.removeprefix(prefix) for n in pending), group[0].removeprefix(prefix)))
                pending = []
            else:
                pending += group
        if pending:
            raise Ambiguous(f"{', '.join(pending)} lead to no output projection")
        return pairs

    def _groups(self, called: Sequence[str]) -> list[list[str]]:
        groups: list[list[str]] = []
        for name in called:
            x = self.trace.received[name]
            if groups and torch.equal(self.trace.received[groups[-1][0]], x):
                groups[-1].append(name)
            else:
                groups.append([name])
        return groups

    def _reach(self, number: int, source: str, target: str, token: int, column: int) -> set[tuple[int, int]]:
        return self.run.reach(f"{self.path}.{number}.{source}", f"{self.path}.{number}.{target}", token, column)

    def _width(self, number: int, path: str, of: Callable[[nn.Module], int]) -> int:
        return of(self.layers[number].get_submodule(path))

    def _is_elementwise(self, number: int, pair: _Pair) -> bool:
        """Whether neuron i that the projection reads is made of outputs i (fused: and width + i) at its position."""
        width = self._width(number, pair.out, width_in)
        for path in pair.into:
            made = self._width(number, path, width_out)
            if made not in (width, 2 * width):
                return False
            for column in range(1, made, width):
                if self._reach(number, path, pair.out, 0, column) != {(0, 1)}:
                    return False
        return True

    def _reads_the_encoder(self, number: int, pair: _Pair) -> bool:
        lengths = {self.trace.received[f"{self.path}.{number}.{path}"].shape[1] for path in pair.into}
        return len(lengths) == 2 and TOKENS in lengths

    def _ffn(self, number: int, pair: _Pair) -> FfnRow:
        width = self._width(number, pair.out, width_in)
        fused = len(pair.into) == 1 and self._width(number, pair.into[0], width_out) == 2 * width
        if len(pair.into) > 2:
            raise Ambiguous(f"{len(pair.into)} modules make the hidden units: {', '.join(pair.into)}")
        flat = self.trace.received[f"{self.path}.{number}.{pair.out}"].dim() == 2
        attribute = self._attribute(WIDTHS, width)
        if attribute is None and width != 4 * self.hidden:
            raise Ambiguous(f"no attribute of the config says that the FFN is {width} wide")
        return FfnRow(pair.out, pair.into, attribute, fused, flat)

    def _attribute(self, names: Sequence[str], value: int) -> str | None:
        candidates = [name.format(stack=self.stack) for name in names]
        return next((name for name in candidates if getattr(self.config, name, None) == value), None)

    def _attention(self, number: int, pair: _Pair) -> AttentionRow:
        names = [name.format(stack=self.stack) for name in HEADS]
        heads_name = next((n for n in names if isinstance(getattr(self.config, n, None), int)), None)
        if heads_name is None:
            raise Ambiguous("no attribute of the config holds the number of heads")
        heads = int(getattr(self.config, heads_name))
        head_dim = getattr(self.config, "head_dim", None) or self.hidden // heads
        width = self._width(number, pair.out, width_in)
        made = sum(self._width(number, path, width_out) for path in pair.into)
        kv_heads = (made - width) // (2 * head_dim)
        if width != heads * head_dim or made != width + 2 * kv_heads * head_dim or not kv_heads or heads % kv_heads:
            raise Ambiguous(f"{', '.join(pair.into)} do not make {heads} heads of {head_dim} for {pair.out}")
        layout = self._layout(number, pair, heads, kv_heads, head_dim)
        kv_name = self._attribute(KV_HEADS, kv_heads) or (None if kv_heads == heads else kv_heads)
        dim_name = "head_dim" if getattr(self.config, "head_dim", None) else None
        return AttentionRow(pair.out, pair.into, heads_name, layout, kv_name, dim_name)

    def _layout(self, number: int, pair: _Pair, heads: int, kv_heads: int, head_dim: int) -> Layout:
        """The layout whose value columns reach exactly the neurons that they should."""
        if len(pair.into) == 2:
            raise Ambiguous(f"{' and '.join(pair.into)} share queries, keys and values between two modules")
        layouts: tuple[Layout, ...] = ("separate",) if len(pair.into) == 3 else ("concatenated", "per-head", "grouped")
        for layout in layouts:
            tests = [(g, d) for g in {0, kv_heads - 1} for d in {0, head_dim - 1}]
            if layout == "per-head" and kv_heads != heads:
                continue
            if all(self._value_lands(number, pair, layout, heads, kv_heads, head_dim, g, d) for g, d in tests):
                return layout
        raise Ambiguous(f"the layout of queries, keys and values in {', '.join(pair.into)} is not known")

    def _value_lands(
        self, number: int, pair: _Pair, layout: Layout, heads: int, kv_heads: int, head_dim: int, group: int, place: int
    ) -> bool:
        share = heads // kv_heads
        column = {
            "separate": group * head_dim,
            "concatenated": (heads + kv_heads + group) * head_dim,
            "per-head": (3 * group + 2) * head_dim,
            "grouped": ((share + 2) * group + share + 1) * head_dim,
        }[layout] + place
        expected = {(group * share + head) * head_dim + place for head in range(share)}
        reached = {neuron for _, neuron in self._reach(number, pair.into[-1], pair.out, 0, column)}
        return reached == expected
