"""Qwen2.5-VL: its folder checked and loaded, its questions asked, its answers judged.

The messages are Chain-of-Zoom's (arXiv 2505.18600, section 3.2, as its published code sends them): the
question is the *system* message, the user's message holds only the pictures.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from checkpoints.headers import TensorInfo, safetensors_info
from errors import InputError
from lora.vlm_adapter import VlmAdapter, check_vlm_adapter, merge_vlm_adapter, todays_name

if TYPE_CHECKING:
    import torch

QUESTION_ONE = "What is in this image? Give me a set of words."
QUESTION_TWO = (
    "The second image is a zoom-in of the first image. Based on this knowledge, "
    "what is in the second image? Give me a set of words."
)

# Hub revisions that are known to work; other models are taken as the hub has them today.
REVISIONS = {"Qwen/Qwen2.5-VL-3B-Instruct": "66285546d2b821cf421d4f5eb2576359d3770cd3"}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.json", "*.jinja", "*.txt", "*.safetensors"]


@dataclass(frozen=True)
class VlmFiles:
    """A checked Qwen2.5-VL folder, with the adapter that goes with it.

    Attributes:
        name: the hub name, or the last part of a folder's path.
        folder: where the files are.
        revision: the hub's commit; None for a folder of one's own.
        bytes: size of the weights in their files.
        parameters: number of weights in them.
        dtype: of most tensors in the files, in safetensors' words (``BF16``).
        adapter: the tuned prompt extractor's weights, or None.
    """

    name: str
    folder: Path
    revision: str | None
    bytes: int
    parameters: int
    dtype: str
    adapter: VlmAdapter | None


def check_vlm_folder(vlm_path: str | Path, vlm_lora_path: Path | None, download: bool = True) -> VlmFiles:
    """Find Qwen2.5-VL and check what headers and configurations tell, without importing torch.

    Args:
        vlm_path: a folder in transformers' layout, or a name on the Hugging Face hub.
        vlm_lora_path: PEFT folder of the tuned prompt extractor, or None.
        download: whether a hub name may be fetched where it is not in the hub's cache.

    Raises:
        InputError: one line with what is wrong and the way out.
    """
    folder, revision = _find(str(vlm_path), download)
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "qwen2_5_vl":
        raise InputError(f"{folder}: a {config.get('model_type')} model, but --vlm_path needs a Qwen2.5-VL")
    _read_json(folder / "preprocessor_config.json")
    _read_json(folder / "tokenizer_config.json")
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise InputError(f"{folder}: no tokenizer (tokenizer.json) in it: fetch the folder again")
    tensors: dict[str, TensorInfo] = {}
    shards = _shards(folder)
    for shard in shards:
        tensors |= safetensors_info(shard)
    adapter = None
    if vlm_lora_path is not None:
        adapter = check_vlm_adapter(vlm_lora_path, linear_layers(tensors))
    total = sum(shard.stat().st_size for shard in shards)
    name = str(vlm_path) if revision else folder.resolve().name
    dtype = Counter(info.dtype for info in tensors.values()).most_common(1)[0][0]
    parameters = sum(info.elements for info in tensors.values())
    return VlmFiles(name, folder, revision, total, parameters, dtype, adapter)


def linear_layers(tensors: dict[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
    """Shape (outputs, inputs) of every linear layer inside the two towers, by its name in today's tree."""
    return {
        todays_name(name.removesuffix(".weight")): info.shape
        for name, info in tensors.items()
        if name.endswith(".weight") and len(info.shape) == 2 and not re.search("embed_tokens|lm_head", name)
    }


def load_vlm(files: VlmFiles, device: "torch.device", dtype: "torch.dtype") -> "torch.nn.Module":
    """Load Qwen2.5-VL with its adapter merged, set to greedy decoding, in eval mode.

    Decoding: the published code leaves it to the folder's generation_config.json, which for
    Qwen2.5-VL-3B-Instruct samples at temperature 1e-6 with a repetition penalty of 1.05. That is greedy
    decoding but for ties; here it is greedy, and the penalty is kept.

    Raises:
        InputError: a tensor is missing, of another shape, or has no place in the model.
    """
    import torch
    from transformers import AutoTokenizer, GenerationConfig, Qwen2_5_VLForConditionalGeneration

    with _quiet_transformers():
        model, loading = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            files.folder,
            # The adapter is added to the weights as they are in the file, so that they are rounded once.
            dtype="auto" if files.adapter else dtype,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are reported below
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(files.folder, local_files_only=True)
    wrong_shape = [name for name, *_ in loading["mismatched_keys"]]
    for what, names in (
        ("missing", loading["missing_keys"]),
        ("unexpected", loading["unexpected_keys"]),
        ("of another shape", wrong_shape),
    ):
        if names:
            raise InputError(
                f"{files.folder}: not a whole Qwen2.5-VL: {len(names)} tensors {what}, such as"
                f" {sorted(names)[0]}: fetch the folder again"
            )
    if files.adapter:
        merge_vlm_adapter(model, files.adapter, dtype)
    stored_path = files.folder / "generation_config.json"
    stored = _read_json(stored_path) if stored_path.is_file() else {}
    model.generation_config = GenerationConfig(
        do_sample=False,
        repetition_penalty=stored.get("repetition_penalty", 1.0),
        eos_token_id=stored.get("eos_token_id", tokenizer.eos_token_id),
        pad_token_id=stored.get("pad_token_id", tokenizer.pad_token_id),
    )
    for parameter in model.parameters():  # not the buffers: rotary frequencies stay float32
        parameter.data = parameter.data.to(dtype)
    assert isinstance(model, torch.nn.Module)
    return model.to(device).eval().requires_grad_(False)


class QwenProcessor:
    """Turns pictures into a batch of questions for Qwen2.5-VL, and token ids into text.

    transformers' own processor wants torchvision, for videos; pictures need only its two parts.
    """

    def __init__(self, folder: Path) -> None:
        """Read the tokenizer, the chat template and the image processor's settings.

        Raises:
            InputError: the folder has no chat template.
        """
        from transformers import AutoTokenizer, Qwen2VLImageProcessor

        with _quiet_transformers():
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.image_processor = Qwen2VLImageProcessor.from_pretrained(folder, local_files_only=True)
        if self.tokenizer.chat_template is None:  # some revisions keep it in a file of the processor's
            template = _read_json(folder / "chat_template.json").get("chat_template")
            if template is None:
                raise InputError(f"{folder}: no chat template in it: fetch the folder again")
            self.tokenizer.chat_template = template

    def chat(self, pictures: int) -> str:
        """Return the conversation about one or two pictures as text, each picture one ``<|image_pad|>``."""
        messages = [
            {"role": "system", "content": QUESTION_ONE if pictures == 1 else QUESTION_TWO},
            {"role": "user", "content": [{"type": "image"}] * pictures},
        ]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def __call__(self, rows: Sequence[Sequence[Image]]) -> "dict[str, torch.Tensor]":
        """Prepare a batch of questions.

        Args:
            rows: the pictures of each question, one or two RGB pictures, of any sizes.

        Returns:
            ``input_ids`` and ``attention_mask`` (B, tokens), padded on the left; ``pixel_values``
            (patches of all pictures, 1176), float32; ``image_grid_thw`` (pictures, 3), in patches.
        """
        import torch

        pictures = [picture for row in rows for picture in row]
        seen = self.image_processor(images=pictures, return_tensors="pt")
        # A picture stands in the text as one token for every merge_size x merge_size of its patches.
        counts = iter((seen["image_grid_thw"].prod(1) // self.image_processor.merge_size**2).tolist())
        ids = []
        for row in rows:
            head, *tails = self.chat(len(row)).split("<|image_pad|>")
            text = head + "".join("<|image_pad|>" * next(counts) + tail for tail in tails)
            ids.append(self.tokenizer(text)["input_ids"])
        length = max(map(len, ids))
        mask = [[0] * (length - len(row)) + [1] * len(row) for row in ids]
        # Padding repeats the row's own first token: a repetition penalty then sees the same set of
        # tokens as without padding, and the answer does not depend on the neighbours.
        padded = [row[:1] * (length - len(row)) + row for row in ids]
        return {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask), **seen}

    def decode(self, ids: "torch.Tensor") -> list[str]:
        """Return the text of each row of new token ids, special tokens left out."""
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def generate(
    model: "torch.nn.Module", questions: "dict[str, torch.Tensor]", max_new_tokens: int
) -> "torch.Tensor":
    """Answer a batch of questions.

    Args:
        model: as `load_vlm` returns it.
        questions: as `QwenProcessor` makes them.
        max_new_tokens: where an answer is cut off.

    Returns:
        The new token ids only, on the CPU: (B, at most ``max_new_tokens``), padded after the end.
    """
    import torch

    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in questions.items()}
    with torch.inference_mode():
        ids: torch.Tensor = model.generate(**inputs, max_new_tokens=max_new_tokens)  # type: ignore[operator]
    return ids[:, inputs["input_ids"].shape[1] :].cpu()


def one_line(answer: str) -> str:
    """Strip an answer and join its lines and spaces into single spaces."""
    return " ".join(answer.split())


def answer_fault(answer: str) -> str:
    """Say why an answer cannot be a prompt; empty where it can.

    An answer is no prompt where it has no letter and no digit in it, or where it ran away: its last three
    quarters or more are one piece said over and over, three times or more.

    >>> answer_fault("fur, whiskers, grey cat, grey fur")
    ''
    >>> answer_fault("fur, fur, fur, fur, fur, fur, fur,")
    'only repetition'
    """
    text = one_line(answer)
    if not any(character.isalnum() for character in text):
        return "empty"
    for period in range(1, len(text) // 3 + 1):
        repeated = period
        while repeated < len(text) and text[-1 - repeated] == text[period - 1 - repeated]:
            repeated += 1
        if repeated >= max(0.75 * len(text), 3 * period):
            return "only repetition"
    return ""


def _find(name: str, download: bool) -> tuple[Path, str | None]:
    """Return the folder of a folder or hub name, and the hub's revision."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder, None
    if folder.exists() or not _HUB_NAME.fullmatch(name):
        raise InputError(f"{name}: not a folder, and not a hub name (OWNER/NAME) either")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        cached = Path(snapshot_download(name, revision=REVISIONS.get(name), local_files_only=True))
        if (cached / "config.json").is_file() and all(shard.is_file() for shard in _shards(cached)):
            return cached, cached.name
    except (OSError, InputError, HFValidationError):
        pass  # not whole in the cache
    try:  # completes a download that was broken off; out of reach of the hub, takes what the cache has
        folder = Path(
            snapshot_download(
                name, revision=REVISIONS.get(name), allow_patterns=_HUB_FILES, local_files_only=not download
            )
        )
    except (HfHubHTTPError, HFValidationError, OSError) as error:  # OSError: offline, or not in the cache
        raise InputError(
            f"{name}: no such folder, and neither the hub nor its cache gives it ({type(error).__name__}):"
            " check the name, go online, or give --vlm_path a folder"
        ) from error
    return folder, folder.name


def _shards(folder: Path) -> list[Path]:
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise InputError(f"{folder}: no weights (model.safetensors) in it: fetch the folder again")
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InputError(f"{index}: not a shard index: fetch it again")
    return [folder / shard for shard in sorted(set(weight_map.values()))]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): fetch the folder again") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON, or half-downloaded: fetch it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a configuration: fetch it again")
    return content


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' warnings and progress bars back; what they tell is checked by the caller."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
