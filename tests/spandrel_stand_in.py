"""A module in spandrel's place, which the tests' environment lacks: what it is given, it notes.

As far as `plain_sr.file_network` calls it, it behaves as spandrel 0.4.2 does.
"""

import types
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


class Enlarger(nn.Module):
    """A convolution that sees 5 pixels, at `scale`; fails where its input is not what it asks for."""

    def __init__(self, scale: int, channels: int, multiple_of: int, square: bool) -> None:
        super().__init__()
        self.scale, self.multiple_of, self.square = scale, multiple_of, square
        self.conv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        nn.init.constant_(self.conv.weight, 1 / 25)
        nn.init.zeros_(self.conv.bias)
        self.shapes: list[tuple[int, ...]] = []
        self.fails_in: tuple[torch.dtype, ...] = ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape))
        assert len(x) == 1
        if x.dtype in self.fails_in:
            raise RuntimeError(f"no {x.dtype} here")
        assert x.shape[2] % self.multiple_of == x.shape[3] % self.multiple_of == 0
        assert not self.square or x.shape[2] == x.shape[3]
        return self.conv(x).repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)


@dataclass
class Descriptor:
    """What spandrel says of a network."""

    scale: int = 2
    purpose: str = "SR"
    input_channels: int = 3
    output_channels: int = 3
    supports_half: bool = True
    supports_bfloat16: bool = True
    minimum: int = 0
    multiple_of: int = 1
    square: bool = False
    architecture: Any = field(default_factory=lambda: types.SimpleNamespace(name="Stand-in"))

    def __post_init__(self) -> None:
        self.model = Enlarger(self.scale, self.input_channels, self.multiple_of, self.square)
        self.size_requirements = types.SimpleNamespace(
            minimum=self.minimum, multiple_of=self.multiple_of, square=self.square
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> "Descriptor":
        self.model.to(device=device, dtype=dtype)
        return self

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        return self.model(image).clamp(0, 1)


class ImageModelDescriptor(Descriptor):
    pass


class MaskedImageModelDescriptor(Descriptor):
    pass


class UnsupportedModelError(Exception):
    pass


class Spandrel(types.ModuleType):
    """The module.

    Attributes:
        says: the descriptor that every state dict gives, or an exception.
        given: the state dicts that came.
    """

    __version__ = "0.0"
    ImageModelDescriptor = ImageModelDescriptor
    MaskedImageModelDescriptor = MaskedImageModelDescriptor
    UnsupportedModelError = UnsupportedModelError

    def __init__(self) -> None:
        super().__init__("spandrel")
        self.says: Descriptor | Exception = ImageModelDescriptor()
        self.given: list[dict[str, torch.Tensor]] = []

    @staticmethod
    def canonicalize_state_dict(state: dict[str, Any]) -> dict[str, Any]:
        return state.get("params_ema", state)

    def ModelLoader(self) -> "Spandrel":
        return self

    def load_from_state_dict(self, state: dict[str, torch.Tensor]) -> Descriptor:
        self.given.append(state)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says
