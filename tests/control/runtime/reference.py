"""The slow, obviously right reference: one row alone, every position, control and neuron in plain loops.

It shares nothing with the runtime but the parsed controls, the table of sites and the tables of a neuron set. It also
notes how close a gate or a trigger came to its threshold: where two floating-point sums of the same numbers may differ,
such a position may fall on either side.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from neurodial.control.addresses import Neurons, Site
from neurodial.control.artifacts.catalogue import SetCatalogue
from neurodial.control.artifacts.neuron_set import AffineMap, NeuronSet, ReadOut, Recommended, SiteNeurons
from neurodial.control.controls import Control, NeuronGate
from neurodial.control.models.hooks import hook_site
from neurodial.control.models.loading import LoadedModel

NEAR = 1e-4


@dataclass
class Reference:
    """A row under its controls.

    Attributes:
        loaded: the model.
        controls: of the row, with everything filled in.
        sets: of the controls.
        prompt: tokens of the prompt, of a causal model.
        margin: the smallest distance of a gate or a trigger from its threshold so far.
        positions: control number → site → positions at which it acted.
        fired_at: control number → steps at which its trigger fired.
    """

    loaded: LoadedModel
    controls: Sequence[Control]
    sets: SetCatalogue
    prompt: int
    margin: float = float("inf")
    positions: dict[int, dict[str, int]] = field(default_factory=dict)
    fired_at: dict[int, list[int]] = field(default_factory=dict)
    _past: dict[str, int] = field(default_factory=dict)
    _tokens: dict[str, int] = field(default_factory=dict)
    _arrived: dict[Site, torch.Tensor] = field(default_factory=dict)
    _on: dict[int, bool] = field(default_factory=dict)
    _next_on: dict[int, bool] = field(default_factory=dict)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hooks on every site of the model."""
        with ExitStack() as hooks:
            for stack, container in self.loaded.sites.containers.items():

                def begin(_: Any, __: Any, stack: str = stack) -> None:
                    self._past[stack] = self._past.get(stack, 0) + self._tokens.get(stack, 0)
                    self._tokens[stack] = 0
                    self._on |= self._next_on

                hooks.callback(container.register_forward_pre_hook(begin).remove)
            for site, info in self.loaded.sites.sites.items():

                def act(x: torch.Tensor, site: Site = site) -> torch.Tensor:
                    return self._site(site, x)

                hooks.callback(hook_site(info, act).remove)
            yield

    def _site(self, site: Site, x: torch.Tensor) -> torch.Tensor:
        self._tokens[site.stack] = x.shape[1]
        self._arrived[site] = x.detach().clone()
        new = x.clone()
        for number, control in enumerate(self.controls):
            self._detect(number, control, site)
            for t in range(x.shape[1]):
                self._control_at(number, control, site, new, t)
        return new

    def _step(self, site: Site, t: int) -> int:
        """The token that position t of this pass produces; below zero: none."""
        position = self._past.get(site.stack, 0) + t
        if site.stack == "encoder":
            return -1
        return position if self.loaded.family == "encoder-decoder" else position - (self.prompt - 1)

    def _detect(self, number: int, control: Control, site: Site) -> None:
        if control.when is None:
            return
        detector = Neurons.parse(control.when.neuron)
        if detector.site != site:
            return
        for t in range(self._arrived[site].shape[1]):
            step = self._step(site, t)
            if step < 0:
                continue
            value = float(self._arrived[site][0, t, detector.indices[0]])
            bounds = [b for b in (control.when.above, control.when.until_below) if b is not None]
            self.margin = min([self.margin, *(abs(value - b) for b in bounds)])
            if not self._on.get(number, False):
                if value > control.when.above:
                    self._next_on[number] = True
                    self.fired_at.setdefault(number, []).append(step)
            elif control.when.until_below is not None and value < control.when.until_below:
                self._next_on[number] = False

    def _control_at(self, number: int, control: Control, site: Site, new: torch.Tensor, t: int) -> None:
        effect = self._what(control, site)
        if effect is None:
            return
        step = self._step(site, t)
        in_phase = {"all": True, "prompt": step < 0, "generation": step >= 0}[control.phase]
        in_steps = control.steps is None or control.steps[0] <= step < control.steps[1]
        triggered = control.when is None or self._on.get(number, False)
        if not (in_phase and in_steps and triggered and self._gate(control, site, t)):
            return
        counts = self.positions.setdefault(number, {})
        counts[str(site)] = counts.get(str(site), 0) + 1
        s = 1.0 if control.strength is None else control.strength
        before = new[0, t].clone().double()
        for neuron, operate in effect:
            x = float(before[neuron])
            new[0, t, neuron] = x + s * (operate(x, before) - x)

    def _what(self, control: Control, site: Site) -> list[tuple[int, Any]] | None:
        """Pairs of a neuron and a function of its value and of all values of the site."""
        if control.set is None:
            neurons = [n for address in [control.neurons or ""] for n in self._named(address, site)]
            value = 0.0 if control.value is None else float(control.value)
            operate = {
                "clamp": lambda x, _: value,
                "amplify": lambda x, _: value * x,
                "shift": lambda x, _: x + value,
                "prune": lambda x, _: 0.0,
            }[control.op or ""]
            return [(n, operate) for n in neurons] or None
        for here, places in self.sets.get(control.set).top(control.top):
            if here.site == site:
                return [(int(here.indices[p]), self._of_set(control, here, int(p))) for p in places]
        return None

    def _named(self, address: str, site: Site) -> tuple[int, ...]:
        stack, *layer, kind = address.split("[")[0].removesuffix(".head").split(".")
        if (stack, kind, bool(layer)) != (site.stack, site.kind, site.layer is not None):
            return ()
        low, _, high = layer[0].partition("-") if layer else ("*", "", "")
        if low != "*" and not int(low) <= (site.layer or 0) <= int(high or low):
            return ()
        info = self.loaded.sites.info(site)
        plain = f"{site}" + address[address.index(".head") if ".head" in address else address.index("[") :]
        return Neurons.parse(plain, width=info.width, head_dim=info.head_dim).indices

    def _of_set(self, control: Control, here: SiteNeurons, place: int) -> Any:
        to = control.to or ""
        if control.op == "clamp":
            return lambda x, _: float(here.mean[to][place])
        if control.op == "shift":
            return lambda x, _: x + float(here.delta[to][place])
        if control.op == "prune":
            return lambda x, _: float(here.overall_mean[place])
        m = here.maps[to]

        def mapped(x: float, all_values: torch.Tensor) -> float:
            total = x + float(m.offset[place])
            for weight, read, center in zip(m.weight[place], m.read, m.center, strict=True):
                total += float(weight) * (float(all_values[int(read)]) - float(center))
            return total

        return mapped

    def _gate(self, control: Control, site: Site, t: int) -> bool:
        if isinstance(control.where, NeuronGate):
            detector = Neurons.parse(control.where.neuron)
            value = float(self._arrived[detector.site][0, t, detector.indices[0]])
            bounds = [b for b in (control.where.above, control.where.below) if b is not None]
            self.margin = min([self.margin, *(abs(value - b) for b in bounds)])
            above = control.where.above is None or value > control.where.above
            return above and (control.where.below is None or value < control.where.below)
        if control.where == "concept":
            found = self.sets.get(control.set or "")
            readout = found.readout_for(site)
            assert readout is not None
            x = self._arrived[readout.site][0, t].double().numpy()
            scores = readout.weights.astype(np.float64) @ x[readout.indices] + readout.bias
            first, second = np.sort(scores)[::-1][:2]
            self.margin = min(self.margin, float(first - second))
            label = readout.classes[int(scores.argmax())]
            return label not in ("none", control.to)
        return True


def concept_set(loaded: LoadedModel, name: str, seed: int, scale: float = 0.5) -> NeuronSet:
    """A random neuron set over two sites of the model's last stack, with a read-out at that stack's `embed`."""
    draw = np.random.default_rng(seed)
    stack = loaded.sites.stacks[-1]
    kinds = sorted({s.kind for s in loaded.sites.sites if s.stack == stack and s.layer is not None})
    labels = ("present", "past")

    def floats(*shape: int) -> np.ndarray:
        return (draw.normal(size=shape) * scale).astype(np.float32)

    def site(where: Site, k: int) -> SiteNeurons:
        width = loaded.sites.info(where).width
        maps = {t: AffineMap(np.arange(4, dtype=np.int64), floats(k, 4), floats(4), floats(k)) for t in labels}
        delta = {t: floats(k) for t in labels}
        mean = {t: floats(k) for t in labels}
        chosen = draw.permutation(width)[:k].astype(np.int64)
        return SiteNeurons(
            where, chosen, floats(k), mean, {t: np.abs(floats(k)) for t in labels}, floats(k), delta, {}, maps
        )

    sites = tuple(site(Site(stack, layer, kind), 3) for layer, kind in zip((0, 1), draw.choice(kinds, 2), strict=True))
    width = loaded.sites.info(Site(stack, None, "embed")).width
    readout = ReadOut(
        Site(stack, None, "embed"), np.arange(0, width, 2), floats(3, (width + 1) // 2), floats(3), ("none", *labels)
    )
    return NeuronSet(
        name, labels, "tiny", loaded.fingerprint, sites, (readout,), Recommended("shift", "concept", {"past": 1.0})
    )


def random_control(loaded: LoadedModel, draw: random.Random, sets: Sequence[str]) -> dict[str, Any]:
    """One control of any kind that the model can take."""
    if sets and draw.random() < 0.25:
        control: dict[str, Any] = {"set": draw.choice(list(sets)), "to": draw.choice(["past", "present"])}
        control |= {"op": draw.choice(["clamp", "shift", "map", "prune"]), "where": draw.choice(["concept", "all"])}
        control |= {"value": "mean"} if control["op"] == "prune" else {}
        control["top"] = draw.randint(1, 6)
        stack, order = loaded.sites.stacks[-1], (-1, 0)
    else:
        site = draw.choice(list(loaded.sites.sites))
        control, order = _inline(loaded, draw, site)
        stack = site.stack
        if draw.random() < 0.4:
            at = draw.choice([s for s in loaded.sites.sites if s.stack == stack and s.order <= order])
            gate: dict[str, Any] = {"neuron": f"{at}[{draw.randrange(loaded.sites.info(at).width)}]"}
            gate |= {"above": draw.uniform(-0.5, 0.3)} if draw.random() < 0.7 else {}
            control["where"] = gate | ({"below": 0.8} if "above" not in gate or draw.random() < 0.3 else {})
    control["strength"] = draw.choice([0.0, 0.5, 1.0, 1.5, -0.5])
    if stack == "decoder":
        control |= _when(loaded, draw)
    return control


def _inline(loaded: LoadedModel, draw: random.Random, site: Site) -> tuple[dict[str, Any], tuple[int, int]]:
    """A control with an address, and the order of the first site that it touches."""
    info = loaded.sites.info(site)
    kind = draw.random()
    where = "*" if site.layer is None else draw.choice([str(site.layer), f"{site.layer}-1", "*"])
    several = site.layer is not None and kind > 0.7
    place = f"{site.stack}.{where}.{site.kind}" if several else str(site)
    order = Site(site.stack, 0, site.kind).order if several and where == "*" else site.order
    if site.kind in ("attn", "cross") and kind > 0.6:
        address = f"{place}.head[{draw.randrange(info.width // (info.head_dim or 1))}]"
    else:
        first = draw.randrange(info.width)
        address = f"{place}[{first}-{min(info.width - 1, first + draw.choice([0, 3, 40]))}]"
    op = draw.choice(["clamp", "amplify", "shift", "prune"])
    value = {"clamp": draw.uniform(-1, 1), "amplify": draw.uniform(-1.5, 2), "shift": draw.uniform(-1, 1)}
    return {"neurons": address, "op": op} | ({"value": value[op]} if op in value else {}), order


def _when(loaded: LoadedModel, draw: random.Random) -> dict[str, Any]:
    scope: dict[str, Any] = {}
    if draw.random() < 0.25:
        scope["phase"] = "generation" if loaded.family == "encoder-decoder" else draw.choice(["prompt", "generation"])
    if draw.random() < 0.25 and scope.get("phase") != "prompt":
        first = draw.randint(0, 3)
        scope["steps"] = [first, first + draw.randint(1, 4)]
    if draw.random() < 0.25 and scope.get("phase") != "prompt":
        at = draw.choice([s for s in loaded.sites.sites if s.stack == "decoder"])
        above = draw.uniform(-0.5, 0.8)
        scope["when"] = {"neuron": f"{at}[{draw.randrange(loaded.sites.info(at).width)}]", "above": above}
        scope["when"] |= {"until_below": above - draw.uniform(0, 0.5)} if draw.random() < 0.6 else {}
    return scope
