"""Which of a part's layers become int8, and how: calibration, choice by measurement, and the bar.

1. `stream` lets a part run in fp32 while only the layer at work has its weights in memory.
2. `LayerInput` keeps what one layer's inputs look like over the calibration data.
3. `choose` tries ways to round a layer's input to 8 bits (smoothing, clipping) on that, and says what each
   way of storing the layer costs: the relative error of its own output.
4. `plans` stores every layer the cheapest way whose cost stays under a limit, and lowers the limit: from all
   layers ``static`` to all ``float``. The caller writes, measures against PyTorch, and stops at the first
   plan over the bar.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from int8.export import (
    Activation,
    LayerMode,
    LayerPlan,
    ReadTensor,
    hollow,
    quantize_blocks,
    quantize_rows,
)

# Input vectors kept of each layer; every token or pixel of a calibration sample is one. On fewer no range is
# calibrated: a layer that has one a sample (a pooled vector) will see quite others, and is never ``static``.
ROWS = 128
EXTREME_ROWS = 32  # of these, the ones with the largest elements: outliers decide how well 8 bits do
SMOOTHING = (0.0, 0.5, 0.75)  # exponents tried of SmoothQuant's migration of outliers into the weights
CLIPPING = (1.0, 0.9999, 0.999)  # shares of the elements that stay unclipped, tried; 1 is min and max
# Costs that no layer may exceed, tried one after the other. Rounding a weight alone costs about 0.005.
LIMITS = (math.inf, 0.1, 0.05, 0.03, 0.02, 0.014, 0.01, 0.007, 0.004, 0.0)
TINY = 1e-8


def stream(part: torch.nn.Module, read: ReadTensor, device: torch.device) -> None:
    """Make a part read each module's weights when the module runs, and drop them after: for good.

    Args:
        part: `sd3.networks.Part` with its parameters on the meta device; views of a single zero afterwards.
        read: gives a parameter by the part's name for it, fp32.
        device: where the part computes.
    """
    own = {
        prefix: [name for name, tensor in _tensors(module) if tensor.is_meta]
        for prefix, module in part.named_modules()
    }
    hollow(part, device)

    def attach(prefix: str, module: torch.nn.Module) -> None:
        empty = dict(_tensors(module))

        def fill(*_: object) -> None:
            for name in own[prefix]:
                tensor = read(f"{prefix}.{name}").to(device)
                if name in module._parameters:
                    module._parameters[name] = torch.nn.Parameter(tensor, requires_grad=False)
                else:
                    module._buffers[name] = tensor

        def drop(*_: object) -> None:
            for name in own[prefix]:
                tensors: dict[str, Any] = (
                    module._parameters if name in module._parameters else module._buffers
                )
                tensors[name] = empty[name]

        module.register_forward_pre_hook(fill)
        module.register_forward_hook(drop, always_call=True)

    for prefix, module in part.named_modules():
        if own[prefix]:
            attach(prefix, module)


def _tensors(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


class LayerInput:
    """What one layer's inputs look like over the calibration data.

    Attributes:
        low: smallest value of each channel, (inputs,).
        high: largest value of each channel, (inputs,).
        rows: some of the input vectors, (at most `ROWS`, inputs): the most extreme, and others at random.
    """

    def __init__(self, seed: int = 0) -> None:
        """Start with no data; ``seed`` decides which rows are kept."""
        self.low = self.high = torch.empty(0)
        self.rows = torch.empty(0)
        self._lots = torch.empty(0)
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, x: torch.Tensor) -> None:
        """Take in a layer's input, (..., inputs)."""
        rows = x.detach().reshape(-1, x.shape[-1]).float().cpu()
        low, high = rows.aminmax(dim=0)
        lots = torch.rand(len(rows), generator=self._generator)
        if self.rows.numel():
            low, high = torch.minimum(low, self.low), torch.maximum(high, self.high)
            rows, lots = torch.cat([self.rows, rows]), torch.cat([self._lots, lots])
        self.low, self.high = low, high
        if len(rows) > ROWS:
            order = lots.clone()
            order[rows.abs().amax(1).topk(EXTREME_ROWS).indices] = 2.0
            kept = order.topk(ROWS).indices
            rows, lots = rows[kept], lots[kept]
        self.rows, self._lots = rows.clone(), lots.clone()


@contextmanager
def observed(part: torch.nn.Module, groups: Sequence[Sequence[str]]) -> Iterator[list[LayerInput]]:
    """Watch the inputs of layers while a part runs, within a with block.

    Args:
        part: the part that runs.
        groups: names of the layers that share an input; each group's first is watched.

    Yields:
        A `LayerInput` for each group, filled as the part runs.
    """
    inputs = [LayerInput(seed) for seed in range(len(groups))]
    handles = [
        part.get_submodule(group[0]).register_forward_pre_hook(
            lambda _module, arguments, seen=seen: seen.add(arguments[0])
        )
        for group, seen in zip(groups, inputs, strict=True)
    ]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class LayerCost:
    """What storing a layer in 8 bits costs: the relative error of its own output on calibration data.

    Attributes:
        errors: by mode, the cheapest and fastest mode first; ``float`` costs nothing.
        activation: the best way found to round its input; none where ``static`` is no mode.
    """

    errors: dict[LayerMode, float]
    activation: Activation | None = None


def choose(seen: LayerInput, weights: Mapping[str, torch.Tensor]) -> dict[str, LayerCost]:
    """Find how to round the input of some layers to 8 bits, and what it costs each of them.

    Args:
        seen: their common input.
        weights: (outputs, inputs) in fp32, by layer.

    Returns:
        The costs by layer; ``activation`` is the same for all of them.
    """
    exact = {name: seen.rows @ weight.t() for name, weight in weights.items()}
    activation, static = _best_activation(seen, weights, exact) if len(seen.rows) == ROWS else (None, {})
    costs = {}
    for name, weight in weights.items():
        errors: dict[LayerMode, float] = {"static": static[name]} if name in static else {}
        errors["blocks"] = relative_error(_product_of_blocks(seen.rows, weight), exact[name])
        errors["weights"] = relative_error(seen.rows @ rounded_rows(weight).t(), exact[name])
        costs[name] = LayerCost(errors, activation)
    return costs


def _best_activation(
    seen: LayerInput, weights: Mapping[str, torch.Tensor], exact: Mapping[str, torch.Tensor]
) -> tuple[Activation, dict[str, float]]:
    """Return the best way found to round some layers' common input, and what it costs each of them."""
    best: tuple[float, Activation, dict[str, float]] | None = None
    for strength in SMOOTHING:
        smoothing = _smoothing(seen, strength)
        divisor = torch.ones(()) if smoothing is None else smoothing
        rows = seen.rows / divisor
        rounded = {name: rounded_rows(weight * divisor) for name, weight in weights.items()}
        for share in CLIPPING:
            scale, zero_point = _step(seen, divisor, rows, share)
            eight_bits = (rows / scale).round_().add_(zero_point).clamp_(0, 255).sub_(zero_point).mul_(scale)
            errors = {
                name: relative_error(eight_bits @ weight.t(), exact[name]) for name, weight in rounded.items()
            }
            if best is None or sum(errors.values()) < best[0]:
                best = sum(errors.values()), Activation(scale, zero_point, smoothing), errors
    assert best is not None
    return best[1], best[2]


def plans(costs: Mapping[str, LayerCost]) -> Iterator[dict[str, LayerPlan]]:
    """Yield plans from the smallest and fastest to the most exact, by `LIMITS`.

    Args:
        costs: of every module that can be stored in 8 bits.
    """
    before: dict[str, LayerPlan] = {}
    for limit in LIMITS:
        plan = {}
        for name, cost in costs.items():
            fitting = [mode for mode, error in cost.errors.items() if error <= limit]
            mode: LayerMode = fitting[0] if fitting else "float"
            plan[name] = LayerPlan(mode, cost.activation if mode == "static" else None)
        if plan != before:
            yield plan
        before = plan


@dataclass(frozen=True)
class Fidelity:
    """How near a tensor comes to the exact one, (..., channels): each vector of channels is a token.

    Attributes:
        cosine: mean over the tokens of the cosine similarity.
        worst_token: the smallest cosine similarity of a token.
        relative_error: norm of the difference over norm of the exact tensor.
    """

    cosine: float
    worst_token: float
    relative_error: float


def compare(found: torch.Tensor, exact: torch.Tensor) -> Fidelity:
    """Compare two tensors of the same shape, (..., channels)."""
    found, exact = found.double(), exact.double()
    cosine = torch.nn.functional.cosine_similarity(found, exact, dim=-1)
    return Fidelity(
        cosine.mean().item(),
        cosine.min().item(),
        ((found - exact).norm() / exact.norm().clamp(min=TINY)).item(),
    )


def psnr(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of pictures in [-1, 1]; infinite where they are equal."""
    error = (found.clamp(-1, 1) - exact.clamp(-1, 1)).double().square().mean().item()
    return float("inf") if error == 0 else 10 * torch.tensor(4 / error, dtype=torch.float64).log10().item()


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Return the root mean square over rows of |found - exact| / |exact|: every row counts the same."""
    errors = (found - exact).norm(dim=-1) / exact.norm(dim=-1).clamp(min=TINY)
    return errors.square().mean().sqrt().item()


def _product_of_blocks(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return rows times a weight (outputs, inputs), both rounded block by block."""
    values, scale, block = quantize_blocks(weight)
    stored = ((values.float() - 128) * scale[..., None]).flatten(1)
    padded = torch.nn.functional.pad(rows, (0, stored.shape[1] - rows.shape[1]))
    return rounded_rows(padded.reshape(-1, block)).view_as(padded) @ stored.t()


def _smoothing(seen: LayerInput, strength: float) -> torch.Tensor | None:
    """Return SmoothQuant's divisors with the weights left out, so that layers that share an input agree."""
    if strength == 0:
        return None
    largest = torch.maximum(seen.high, -seen.low).clamp(min=TINY)
    divisor = (largest / largest.log().mean().exp()) ** strength
    return divisor.clamp(1e-3, 1e3)  # a channel that calibration found empty must not blow up elsewhere


def _step(seen: LayerInput, divisor: torch.Tensor, rows: torch.Tensor, share: float) -> tuple[float, int]:
    """Return scale and zero point of 8 unsigned bits over the range that holds a share of the elements."""
    if share == 1:
        low, high = (seen.low / divisor).min().item(), (seen.high / divisor).max().item()
    else:
        flat = rows.flatten()
        rank = max(1, round((1 - share) * flat.numel() / 2))
        low, high = flat.kthvalue(rank).values.item(), flat.kthvalue(flat.numel() + 1 - rank).values.item()
    low, high = min(low, 0.0), max(high, 0.0)  # 0.0 must be a number of the 256
    scale = max((high - low) / 255, TINY)
    return scale, max(0, min(255, round(-low / scale)))


def rounded_rows(weight: torch.Tensor) -> torch.Tensor:
    """Return (rows, columns) as they are after int8 with a scale for each row."""
    values, scale = quantize_rows(weight)
    return values.float() * scale[:, None]
