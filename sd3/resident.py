"""SD3's six parts in a machine's residency: each read at its first use, in the precision of its device."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch

from checkpoints.gate import blaming
from errors import InputError
from machine.machine import Machine
from machine.memory import NO_PICTURE, PICTURE_WORKING, Size
from machine.winograd import hasten_convolutions
from sd3.checkpoint import SD3Checkpoint
from sd3.compiled import compile_blocks, refuse_what_cannot_be_compiled, running_compiled
from sd3.fused_t5 import hasten_t5
from sd3.networks import Loader, Part, check_part, load_part, part_size
from sd3.spec import PARTS, TEXT_PARTS, VAE_PARTS, vae_pixels
from sd3.tiles import tile_vae
from zoom.settings import Tiles

logger = logging.getLogger(__name__)

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # as safetensors names them
IN_ORDER = (*TEXT_PARTS, "vae_encoder", "transformer", "vae_decoder")  # as a scale uses them
VAE_WORKING = PICTURE_WORKING // 4  # for each byte that a weight has: what it makes is in the weights' type
IN_PIECES = 2  # times as much on a CPU, which keeps what is freed: 1.0 to 1.9 GiB measured


class ResidentParts:
    """SD3's parts by name, or what stands in for them.

    Attributes:
        dtypes: of each part's arithmetic. A part whose file is in fp16 keeps it (SD3-medium's are): what is
            not finite in the end is computed again in fp32. Under fp16 the VAE computes in fp32, as in the
            published code: nothing shows that it and its SR encoder keep within fp16's range.
    """

    def __init__(
        self,
        checkpoint: SD3Checkpoint,
        machine: Machine,
        tiles: Tiles,
        stand_ins: Mapping[str, tuple[Loader, Size]],
        xformers: bool,
        compiled: bool = False,
    ) -> None:
        """Check every tensor's name and shape and register the parts; nothing big is read yet.

        Args:
            checkpoint: checked; lacks the weights of parts that something stands in for.
            machine: whose residency gets them.
            tiles: sizes beyond which networks work tile by tile.
            stand_ins: loaders of callables that take the place of parts, and their sizes, by part name.
            xformers: use xformers' attention in the transformer where it can.
            compiled: compile the transformer's blocks.

        Raises:
            InputError: weights do not fit their config.json, tiles are too large for the transformer, or it
                cannot be compiled.
        """
        self._checkpoint, self._machine, self._tiles = checkpoint, machine, tiles
        self._xformers, self._compiled = xformers, compiled
        config = checkpoint.transformer_config
        largest = config["pos_embed_max_size"] * config["patch_size"]
        if tiles.latent > largest:
            raise InputError(f"--latent_tiled_size {tiles.latent}: this transformer takes {largest} at most")
        devices = machine.devices
        if compiled:
            refuse_what_cannot_be_compiled(devices.sr, stand_ins)
        self.dtypes = {part: self._dtype(part, devices.text) for part in TEXT_PARTS}
        self.dtypes["transformer"] = sr_dtype = self._dtype("transformer", devices.sr)
        self.dtypes |= dict.fromkeys(VAE_PARTS, torch.float32 if sr_dtype == torch.float16 else sr_dtype)
        for part in IN_ORDER:
            device = devices.text if part in TEXT_PARTS else devices.sr
            if part in stand_ins:
                load, size = stand_ins[part]
                machine.residency.add(part, load, device, size)
                continue
            files = checkpoint.files_of(part)
            lora = part == "transformer" and checkpoint.lora_path is not None
            by_block, stored = self._by_block(part, device), DTYPES[files.dtype]
            size = part_size(check_part(part, files), self.dtypes[part], stored, by_block, lora)
            working = self._working(part, size)
            machine.residency.add(part, self._loader(part), device, working, checkpoint.weights_of(part))

    def _dtype(self, part: str, device: torch.device) -> torch.dtype:
        files = self._checkpoint.parts.get(PARTS[part].folder)
        in_fp16 = files is not None and bool(files.tensors) and files.dtype == "F16"
        return self._machine.dtype(device, keeps_fp16=in_fp16)

    def _working(self, part: str, size: Size) -> Size:
        """Say of a part how large the pictures are that it works on at once, and what that takes."""
        tiles, pixels = self._tiles, vae_pixels(self._checkpoint.vae_config)
        sides = {"transformer": tiles.latent * pixels, "vae_encoder": tiles.vae_encoder}
        sides |= {"vae_decoder": tiles.vae_decoder * pixels} | dict.fromkeys(TEXT_PARTS, NO_PICTURE)
        working = size.working
        if part in VAE_PARTS:
            working = VAE_WORKING * self.dtypes[part].itemsize * (IN_PIECES if self._sr_on_cpu else 1)
        return replace(size, working=working, largest=sides[part], at_once=self.at_once(part))

    def at_once(self, part: str) -> int | None:
        """Return how many pictures a part is given at a time at most, or None for a whole batch.

        On a CPU a VAE takes 1.5 GB a picture of 512x512, and no less time for several of them together.
        """
        return 1 if self._sr_on_cpu and part in VAE_PARTS else None

    @property
    def _sr_on_cpu(self) -> bool:
        return self._machine.devices.sr.type == "cpu"

    def _by_block(self, part: str, device: torch.device) -> bool:
        """Whether a part's weights stay as the file has them, to be cast a block at a time.

        Without an accelerator: in fp32, T5 and the transformer would not fit a laptop's memory (27 GB), and
        weights that stay memory-mapped are there at once. The VAE is small.
        """
        exact = part not in VAE_PARTS and self.dtypes[part] == torch.float32
        return exact and self._machine.efficient_memory and device.type == "cpu"

    def _loader(self, part: str) -> Loader:
        def load(device: torch.device) -> Part:
            by_block = self._by_block(part, device)
            with blaming(self._checkpoint.files_of(part).folder):
                loaded = load_part(part, self._checkpoint, device, self.dtypes[part], by_block)
            if part == "transformer" and self._xformers:
                _use_xformers(loaded.model)
            if part == "transformer" and self._compiled:
                compile_blocks(loaded.model)
            if part == "text_enc_3" and device.type == "cpu":
                hasten_t5(loaded.model)
            if part in VAE_PARTS:
                tile_vae(loaded.model, part, self._tiles)
                if device.type == "cpu":  # where it is four fifths of a step
                    hasten_convolutions(loaded.model)
            return loaded

        return load

    @contextmanager
    def use(self, part: str, exact: bool = False) -> Iterator[Callable[..., Any]]:
        """Give a part's call on its device for the length of a with block.

        Args:
            part: one of `sd3.spec.PARTS`.
            exact: arithmetic in fp32, whatever the dtype of the weights.
        """
        with self._machine.residency.use(part) as call, ExitStack() as around:
            exact = exact and isinstance(call, Part)
            if part == "transformer" and self._compiled:
                around.enter_context(running_compiled(exact))
            if exact:
                around.enter_context(call.in_fp32())
            yield call


def _use_xformers(transformer: Any) -> None:
    try:
        if transformer.device.type != "cuda":
            raise ValueError("it is for CUDA devices only")
        transformer.enable_xformers_memory_efficient_attention()
    except Exception as error:  # whatever it has against this torch or this GPU
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        logger.warning("xformers' attention is not available (%s); PyTorch's own is used", reason)
