"""SR backbone: one step of Stable Diffusion 3, steered by a prompt.

OSEDiff (arXiv 2406.08177) on SD3-medium, as Chain-of-Zoom's code (arXiv 2505.18600) runs it. For x in
[-1, 1], (B, 3, H, W)::

    z = vae.encode(x).latent_dist.sample() * scaling_factor      # the published code subtracts no shift here
    v = transformer(z, t = 1000, prompt embeddings, pooled)
    y = vae.decode((z - v) / scaling_factor + shift_factor)

No noise is added, no guidance, no negative prompt. The networks are the six parts of `sd3.networks`, each a
plain callable that something else can stand in for; `residency` decides which of them is where.
"""

import logging
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from checkpoints.hashing import sha256_of
from errors import InputError, PictureError
from machine.residency import DevicePlan, Residency, Size, choose_dtype, out_of_memory
from machine.stage_times import StageTimes
from sd3.checkpoint import FOLDERS, SD3Checkpoint, check_sd3
from sd3.networks import Loader, Part, check_part, load_part, part_size

logger = logging.getLogger(__name__)

CLIP_TOKENS = 77
T5_TOKENS = 512
# Text embeddings in memory, 10 MB each in fp32: those of more prompts at once go to a temporary file.
PROMPTS_KEPT = 32
TEXT_PARTS = ("text_enc_1", "text_enc_2", "text_enc_3")

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # as safetensors names them

T = TypeVar("T")
R = TypeVar("R")
Embedding = tuple[torch.Tensor, torch.Tensor]  # prompt_embeds (77 + 512, 4096), pooled (2048,)
EMPTY = torch.empty(0)


@dataclass(frozen=True)
class Tiles:
    """Sizes beyond which a network works tile by tile.

    Attributes:
        vae_encoder: side of the encoder's tiles, in pixels.
        vae_decoder: side of the decoder's tiles, in latent pixels (8 picture pixels each).
        latent: side of the transformer's tiles, in latent pixels; even.
        latent_overlap: pixels that neighbouring transformer tiles share.
    """

    vae_encoder: int = 1024
    vae_decoder: int = 224
    latent: int = 96
    latent_overlap: int = 32

    def __post_init__(self) -> None:
        """Raise InputError where the sizes do not work."""
        for option, size, multiple in (
            ("--vae_encoder_tiled_size", self.vae_encoder, 8),
            ("--vae_decoder_tiled_size", self.vae_decoder, 1),
            ("--latent_tiled_size", self.latent, 2),
        ):
            if size < 16 or size % multiple:
                raise InputError(f"{option} {size}: must be at least 16 and a multiple of {multiple}")
        if not 0 <= self.latent_overlap < self.latent:
            raise InputError(
                f"--latent_tiled_overlap {self.latent_overlap}: must be from 0 to below"
                f" --latent_tiled_size {self.latent}"
            )


@dataclass
class _Picture:
    """One crop on its way through the parts: what the next part needs, or why it goes no further."""

    index: int
    prompt: str
    seed: int
    embedding: Embedding = (EMPTY, EMPTY)
    latent: torch.Tensor = EMPTY  # (16, h, w), fp32, on the CPU
    error: PictureError | None = None


class OSEDiffSD3:
    """SR backbone on SD3: enlarges crops in one pass of the transformer.

    Attributes:
        checkpoint: the files in use.
        residency: where the parts live.
        times: seconds by stage.
    """

    def __init__(
        self,
        model: str,
        lora_path: Path | None,
        vae_path: Path | None,
        *,
        plan: DevicePlan,
        residency: Residency,
        times: StageTimes,
        mixed_precision: str = "auto",
        batch_size: int = 1,
        tiles: Tiles | None = None,
        lora_rank: int | None = None,
        xformers: bool = False,
        stand_ins: Mapping[str, Loader] | None = None,
        stand_in_bytes: Mapping[str, int] | None = None,
    ) -> None:
        """Check every file and register the parts; nothing big is read yet.

        Args:
            model: SD3 folder in diffusers layout, or hub name.
            lora_path: SR LoRA; None together with ``vae_path`` for plain SD3.
            vae_path: SR encoder of the VAE.
            plan: devices of text encoders and SR networks.
            residency: shared by all parts of the run.
            times: shared by all parts of the run.
            mixed_precision: auto, fp32, fp16 or bf16; under fp16 the VAE computes in fp32, because SD3's
                leaves fp16's range.
            batch_size: pictures (and prompts) a forward pass; halved where CUDA runs out of memory.
            tiles: sizes beyond which networks work tile by tile.
            lora_rank: rank that the SR files must have.
            xformers: use xformers' attention in the transformer where it can.
            stand_ins: loaders of callables that take the place of parts, by part name.
            stand_in_bytes: what these take in memory, for the plan.

        Raises:
            InputError: anything wrong with the files or options.
        """
        self.stand_ins = dict(stand_ins or {})
        self.checkpoint: SD3Checkpoint = check_sd3(model, lora_path, vae_path, lora_rank, self.stand_ins)
        self.residency, self.times, self.xformers = residency, times, xformers
        self.batch_size = batch_size
        self.tiles = tiles or Tiles()
        self.dtypes = dict.fromkeys(TEXT_PARTS, choose_dtype(mixed_precision, plan.text))
        self.dtypes["transformer"] = sr_dtype = choose_dtype(mixed_precision, plan.sr)
        vae_dtype = torch.float32 if sr_dtype == torch.float16 else sr_dtype
        self.dtypes |= {"vae_encoder": vae_dtype, "vae_decoder": vae_dtype}
        self._name = model
        vae = self.checkpoint.parts["vae"].config
        self._scaling_factor, self._shift_factor = vae["scaling_factor"], vae["shift_factor"]
        self._pixels = 2 ** (len(vae["block_out_channels"]) - 1)  # picture pixels a latent pixel, 8
        transformer = self.checkpoint.parts["transformer"].config
        self._side_step = self._pixels * transformer["patch_size"]
        largest = transformer["pos_embed_max_size"] * transformer["patch_size"]
        if self.tiles.latent > largest:
            raise InputError(
                f"--latent_tiled_size {self.tiles.latent}: this transformer takes {largest} at most"
            )
        self._replaced: set[str] = set()  # parts whose stand-in did not load
        self._timestep = one_step(self.checkpoint.folder)
        self._tokenizers: dict[str, Any] = {}
        self._embeddings: OrderedDict[tuple[str, bool], Embedding] = OrderedDict()
        self._sizes: dict[str, int] = {}  # batch size of each stage, once CUDA ran out of memory

        for part, folder in FOLDERS.items():
            device = plan.text if part in TEXT_PARTS else plan.sr
            if part in self.stand_ins:
                taken = (stand_in_bytes or {}).get(part)
                size = None if taken is None else Size(0, taken)
                residency.add(part, self._loader(part), device, size)
                continue
            files = self.checkpoint.parts[folder]
            network = check_part(part, self.checkpoint.folder / folder, files.config, files.tensors)
            stored = DTYPES[files.dtype] if self._by_block(part, device) else None
            lora = part == "transformer" and self.checkpoint.lora_path is not None
            size = part_size(network, self.dtypes[part], stored, lora)
            residency.add(part, self._loader(part), device, size)

    def _by_block(self, part: str, device: torch.device) -> bool:
        """Whether a part's weights stay as the file has them, to be cast a block at a time.

        Without an accelerator: in fp32, T5 and the transformer would not fit a laptop's memory (27 GB), and
        weights that stay memory-mapped are there at once. The VAE is small.
        """
        exact = part in (*TEXT_PARTS, "transformer") and self.dtypes[part] == torch.float32
        return exact and self.residency.efficient_memory and device.type == "cpu"

    def _loader(self, part: str) -> Loader:
        """Return what loads a part: its stand-in where there is one, else, or where that fails, the part."""

        def load(device: torch.device) -> Any:
            checkpoint = self.checkpoint
            if part in self.stand_ins:
                try:
                    return self.stand_ins[part](device)
                except Exception as error:  # onnxruntime's exceptions have no common base but this
                    if out_of_memory(error):
                        raise
                    reason = " ".join(str(error).split())[:300]
                    logger.warning("%s: its stand-in does not load (%s); PyTorch's is used", part, reason)
                    del self.stand_ins[part]
                    self._replaced.add(part)
            if part in self._replaced:  # its files were not checked: something else was to stand in
                others = FOLDERS.keys() - {part}
                checkpoint = check_sd3(self._name, checkpoint.lora_path, checkpoint.vae_path, replaced=others)
            dtype = self.dtypes[part]
            loaded = load_part(part, checkpoint, device, dtype, self._by_block(part, device))
            if part == "transformer" and self.xformers:
                _use_xformers(loaded.model)
            if part == "vae_encoder":
                tile_vae(loaded.model, self.tiles.vae_encoder // self._pixels, self._pixels)
            if part == "vae_decoder":
                tile_vae(loaded.model, self.tiles.vae_decoder, self._pixels)
            return loaded

        return load

    def describe(self) -> dict[str, object]:
        """Say what computes the pixels: files, precision, tiling. For run.json, and compared on resume."""
        files = {
            part.files[0].parent.name: {file.name: file.stat().st_size for file in part.files}
            for part in self.checkpoint.parts.values()
            if part.files
        }
        return {
            "backbone": "sd3",
            "model": Path(self._name).name,
            "files": files,
            "lora_sha256": self.checkpoint.lora_path and sha256_of(self.checkpoint.lora_path),
            "vae_sha256": self.checkpoint.vae_path and sha256_of(self.checkpoint.vae_path),
            "dtypes": {part: str(dtype).removeprefix("torch.") for part, dtype in self.dtypes.items()},
            "stand_ins": sorted(self.stand_ins),
            "xformers": self.xformers,
            "tiles": vars(self.tiles),
        }

    def __call__(
        self,
        crops: Sequence[Image.Image],
        side: int,
        prompts: Sequence[str],
        seeds: Sequence[int],
        step: int = 1,
    ) -> Iterator[Image.Image | PictureError]:
        """Enlarge crops to ``side``, yielding results in order.

        Under ``--efficient_memory`` the whole group passes each part before the next part is placed;
        otherwise a batch passes them all.

        Args:
            crops: RGB pictures of any size; each is enlarged with BICUBIC to ``side`` first.
            side: of the results, a multiple of 16.
            prompts: one a crop.
            seeds: one a crop, of the noise with which its latent is drawn.
            step: of the chain; every step uses the same networks.

        Yields:
            RGB pictures of ``side``, or a PictureError in the place of one that failed.

        Raises:
            InputError: ``side`` does not suit the networks.
        """
        if side % self._side_step or side <= 0:
            raise InputError(f"SD3 makes pictures whose side is a multiple of {self._side_step}, not {side}")
        group = len(crops) if self.residency.efficient_memory else self.batch_size
        pictures = [_Picture(index, prompts[index], seeds[index]) for index in range(len(crops))]
        for start in range(0, len(crops), group):
            for picture, result in self._upscale(pictures[start : start + group], crops, side):
                if isinstance(result, PictureError) or _plausible(result):
                    yield result if isinstance(result, PictureError) else _to_image(result)
                else:
                    yield self._again_in_fp32(picture, crops, side)

    def _again_in_fp32(
        self, picture: _Picture, crops: Sequence[Image.Image], side: int
    ) -> Image.Image | PictureError:
        """Compute one picture again, in fp32 arithmetic, whose output is not finite or constant."""
        if any(dtype != torch.float32 for dtype in self.dtypes.values()):
            logger.warning("picture %d came out constant or not finite: once more in fp32", picture.index)
            again = _Picture(picture.index, picture.prompt, picture.seed)
            ((_, result),) = self._upscale([again], crops, side, exact=True)
            if isinstance(result, PictureError):
                return result
            if _plausible(result):
                return _to_image(result)
        return PictureError("the SR network's output is constant or not finite, in fp32 too")

    def _upscale(
        self, pictures: list[_Picture], crops: Sequence[Image.Image], side: int, exact: bool = False
    ) -> Iterator[tuple[_Picture, torch.Tensor | PictureError]]:
        """Pass pictures through every part, one part after the other; yield (3, side, side), about [-1, 1].

        ``exact``: arithmetic in fp32, whatever the dtype of the weights.
        """
        embeddings = self.encode_prompts([picture.prompt for picture in pictures], exact)
        for picture in pictures:
            match embeddings[picture.prompt]:
                case PictureError() as error:
                    picture.error = error
                case embedding:
                    picture.embedding = embedding

        def encode(batch: list[_Picture]) -> list[torch.Tensor | PictureError]:
            with self.times.stage("sr.prepare"):
                x = [_read(crops, picture.index, side) for picture in batch]
            readable = [one for one in x if isinstance(one, torch.Tensor)]
            if not readable:
                return x
            with self._use("vae_encoder", exact) as call, self.times.stage("sr.vae_encode.forward"):
                moments = iter(call(torch.stack(readable)).float().cpu())
            return [
                one
                if isinstance(one, PictureError)
                else _sample(next(moments), picture.seed) * self._scaling_factor
                for picture, one in zip(batch, x, strict=True)
            ]

        def denoise(batch: list[_Picture]) -> list[torch.Tensor]:
            z = torch.stack([picture.latent for picture in batch])
            prompt_embeds, pooled = map(torch.stack, zip(*(p.embedding for p in batch), strict=True))
            with self._use("transformer", exact) as call, self.times.stage("sr.transformer.forward"):
                velocity = self._velocity(call, z, prompt_embeds, pooled)
            return list(z - velocity)  # sigma goes from 1 to 0 in the one step

        def decode(batch: list[_Picture]) -> list[torch.Tensor]:
            z = torch.stack([picture.latent for picture in batch])
            with self._use("vae_decoder", exact) as call, self.times.stage("sr.vae_decode.forward"):
                return list(call(z / self._scaling_factor + self._shift_factor).float().cpu())

        def sound() -> list[_Picture]:
            return [picture for picture in pictures if picture.error is None]

        run: Callable[[list[_Picture]], Sequence[torch.Tensor | PictureError]]
        for part, run in (("vae_encoder", encode), ("transformer", denoise)):
            for picture, result in zip(sound(), self._batches(part, sound(), run), strict=True):
                match result:
                    case PictureError():
                        picture.error = result
                    case _:
                        picture.latent = result
        decoded = self._batches("vae_decoder", sound(), decode)
        for picture in pictures:
            yield picture, picture.error or next(decoded)

    def encode_prompts(
        self, prompts: Sequence[str], exact: bool = False
    ) -> dict[str, Embedding | PictureError]:
        """Encode every distinct prompt once, the three text encoders one after the other.

        Args:
            prompts: any number, also equal ones.
            exact: arithmetic in fp32, whatever the dtype of the weights.

        Returns:
            For each prompt on the CPU, in the encoders' dtype: prompt_embeds (77 + 512, 4096), the two CLIPs'
            hidden states side by side, padded with zeros, above T5's; pooled (2048,). A PictureError where
            the encoder ran out of memory.
        """
        results: dict[str, Embedding | PictureError] = {}
        for prompt in dict.fromkeys(prompts):
            if (prompt, exact) in self._embeddings:
                self._embeddings.move_to_end((prompt, exact))
                results[prompt] = self._embeddings[prompt, exact]
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in results]
        if not missing:
            return results
        clips = [list(self._text_part(part, missing, exact)) for part in TEXT_PARTS[:2]]
        t5 = self._text_part(TEXT_PARTS[2], missing, exact)
        with tempfile.TemporaryDirectory(prefix="embeddings_", ignore_cleanup_errors=True) as folder:
            for prompt, *encoded in zip(missing, *clips, t5, strict=True):
                tensors = [one for one in encoded if not isinstance(one, PictureError)]
                if len(tensors) < len(TEXT_PARTS):
                    results[prompt] = next(one for one in encoded if isinstance(one, PictureError))
                elif len(missing) <= PROMPTS_KEPT:
                    results[prompt] = self._embeddings[prompt, exact] = join_embeddings(*tensors)
                else:
                    embeds, pooled = join_embeddings(*tensors)
                    results[prompt] = _on_disk(embeds, Path(folder, str(len(results)))), pooled
        while len(self._embeddings) > PROMPTS_KEPT:
            self._embeddings.popitem(last=False)
        return results

    def _text_part(
        self, part: str, prompts: list[str], exact: bool
    ) -> Iterator[tuple[torch.Tensor, ...] | PictureError]:
        """Yield what one text encoder makes of each prompt, on the CPU, without the batch axis."""

        def encode(batch: list[str]) -> list[tuple[torch.Tensor, ...]]:
            with self.times.stage("text.tokenize"):
                input_ids = self._tokenize(part, batch)
            with self._use(part, exact) as call, self.times.stage("text.encode.forward"):
                output = call(input_ids)
                tensors = output if isinstance(output, tuple) else (output,)
                return list(zip(*(tensor.cpu() for tensor in tensors), strict=True))

        return self._batches(part, prompts, encode)

    def _tokenize(self, part: str, prompts: list[str]) -> torch.Tensor:
        """Return token ids (B, 77) for the CLIPs, (B, 512) for T5; longer prompts are cut."""
        if part not in self._tokenizers:
            self._tokenizers[part] = load_tokenizer(self.checkpoint.folder, part)
        tokenizer = self._tokenizers[part]
        length = T5_TOKENS if part == "text_enc_3" else CLIP_TOKENS
        for prompt in prompts:
            count = len(tokenizer.tokenize(prompt)) + (1 if part == "text_enc_3" else 2)
            if count > length:
                logger.info("%s reads %d of the %d tokens of the prompt: %s", part, length, count, prompt)
        return tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids

    def _velocity(
        self,
        call: Callable[..., torch.Tensor],
        z: torch.Tensor,
        prompt_embeds: torch.Tensor,
        pooled: torch.Tensor,
    ) -> torch.Tensor:
        """Return the velocity at z (B, 16, h, w), in fp32 on the CPU; by tiles where z is large.

        Overlapping tiles are averaged with Gaussian weights, as OSEDiff's published code does.
        """
        timestep = self._timestep.expand(len(z))
        size = self.tiles.latent
        rows, columns = (_tile_starts(length, size, self.tiles.latent_overlap) for length in z.shape[2:])
        if len(rows) == len(columns) == 1:
            return call(z, timestep, prompt_embeds, pooled).float().cpu()
        total, weights = torch.zeros_like(z), torch.zeros_like(z)
        for top in rows:
            for left in columns:
                tile = (..., slice(top, top + size), slice(left, left + size))
                velocity = call(z[tile], timestep, prompt_embeds, pooled).float().cpu()
                weight = _gaussian(velocity.shape[2])[:, None] * _gaussian(velocity.shape[3])
                total[tile] += velocity * weight
                weights[tile] += weight
        return total / weights

    def _batches(
        self, part: str, items: list[T], run: Callable[[list[T]], Sequence[R | PictureError]]
    ) -> Iterator[R | PictureError]:
        """Run a part over items in batches and yield a result each; smaller batches where CUDA is full."""
        done = 0
        while done < len(items):
            batch = items[done : done + self._sizes.get(part, self.batch_size)]
            results: Sequence[R | PictureError] | None
            try:
                with torch.no_grad():
                    results = run(batch)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                results = None  # the exception holds the tensors of its frames: free memory after it is gone
            if results is None:
                _empty_cache()
                if len(batch) > 1:
                    self._sizes[part] = len(batch) // 2
                    logger.warning("%s: out of device memory; batches of %d from here", part, len(batch) // 2)
                    continue
                results = [
                    PictureError(f"{part}: out of device memory; try --efficient_memory or --device cpu")
                ]
            yield from results
            done += len(batch)

    @contextmanager
    def _use(self, part: str, exact: bool) -> Iterator[Callable[..., Any]]:
        with self.residency.use(part) as call:
            if exact and isinstance(call, Part):
                with call.in_fp32():
                    yield call
            else:
                yield call


def load_tokenizer(folder: Path, part: str) -> Any:
    """Return the tokenizer of a text encoder.

    Args:
        folder: SD3 in diffusers layout.
        part: text_enc_1, text_enc_2 or text_enc_3.

    Raises:
        InputError: its files are missing or damaged.
    """
    from transformers import CLIPTokenizer, T5TokenizerFast

    path = folder / FOLDERS[part].replace("text_encoder", "tokenizer")
    kind = T5TokenizerFast if part == "text_enc_3" else CLIPTokenizer
    try:
        return kind.from_pretrained(path, local_files_only=True)
    except Exception as error:  # tokenizers fail in many ways; all of them are the files'
        raise InputError(f"{path}: not a {kind.__name__} ({str(error).splitlines()[0]})") from None


def one_step(folder: Path) -> torch.Tensor:
    """Return the timestep of a one-step schedule, (1,): 1000 for SD3, where sigma goes from 1 to 0."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    try:
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(
            folder / "scheduler", local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'scheduler'}: no scheduler_config.json of SD3 ({error})") from None
    scheduler.set_timesteps(1)
    if scheduler.sigmas.tolist() != [1.0, 0.0]:
        raise InputError(f"{folder / 'scheduler'}: its one step is not from sigma 1 to 0; use SD3's own")
    return scheduler.timesteps[:1]


def _read(crops: Sequence[Image.Image], index: int, side: int) -> torch.Tensor | PictureError:
    """Return a crop enlarged to (3, side, side) in [-1, 1], or why it cannot be read."""
    try:
        crop = crops[index].resize((side, side), Image.Resampling.BICUBIC)
    except PictureError as error:
        return error
    except OSError as error:
        return PictureError(f"cannot be read: {error}")
    pixels = torch.from_numpy(np.array(crop.convert("RGB"))).permute(2, 0, 1)
    return pixels.float() / 255 * 2 - 1


def _sample(moments: torch.Tensor, seed: int) -> torch.Tensor:
    """Draw a latent (16, h, w) from its moments (32, h, w); equal seeds draw equal noise on every device."""
    mean, log_variance = moments.chunk(2)
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(mean.shape, generator=generator)
    return mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise  # diffusers' bounds


def join_embeddings(
    clip_l: tuple[torch.Tensor, ...], clip_g: tuple[torch.Tensor, ...], t5: tuple[torch.Tensor, ...]
) -> Embedding:
    """Lay the CLIPs' hidden states side by side, pad them to T5's width, and put T5's tokens below."""
    clip = torch.cat([clip_l[0], clip_g[0]], dim=-1)
    clip = torch.nn.functional.pad(clip, (0, t5[0].shape[-1] - clip.shape[-1]))
    return torch.cat([clip, t5[0]]), torch.cat([clip_l[1], clip_g[1]])


def _on_disk(tensor: torch.Tensor, path: Path) -> torch.Tensor:
    """Return the same tensor in a memory-mapped file, which goes when its folder and the tensor are gone.

    Raises:
        InputError: the disk is full. (Writing through the map would end the process.)
    """
    try:
        path.write_bytes(tensor.contiguous().view(torch.uint8).numpy().data)
    except OSError as error:
        raise InputError(
            f"{path.parent}: no room for the text embeddings of this folder ({error.strerror}); make room, "
            "or name another folder with TMPDIR"
        ) from error
    mapped = torch.from_file(str(path), shared=False, size=tensor.numel(), dtype=tensor.dtype)
    return mapped.view_as(tensor)


def _plausible(y: torch.Tensor) -> bool:
    return bool(y.isfinite().all() and y.min() < y.max())


def _to_image(y: torch.Tensor) -> Image.Image:
    """Round (3, H, W) in [-1, 1] to 8 bits."""
    pixels = ((y.clamp(-1, 1) + 1) / 2 * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _tile_starts(length: int, size: int, overlap: int) -> list[int]:
    """Return where tiles begin that cover ``length`` and share at least ``overlap``; the last ends flush."""
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]


def _gaussian(length: int) -> torch.Tensor:
    """Return OSEDiff's weights along one side of a tile: a Gaussian of variance 0.01 in units of the side."""
    position = (torch.arange(length) - (length - 1) / 2) / length
    return torch.exp(-(position**2) / (2 * 0.01))


def tile_vae(vae: Any, latent_size: int, pixels: int) -> None:
    """Switch on diffusers' own tiling for pictures larger than ``latent_size`` latent pixels."""
    vae.enable_tiling()
    vae.tile_latent_min_size, vae.tile_sample_min_size = latent_size, latent_size * pixels


def _use_xformers(transformer: Any) -> None:
    try:
        if transformer.device.type != "cuda":
            raise ValueError("it is for CUDA devices only")
        transformer.enable_xformers_memory_efficient_attention()
    except Exception as error:  # whatever it has against this torch or this GPU
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        logger.warning("xformers' attention is not available (%s); PyTorch's own is used", reason)


def _empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
