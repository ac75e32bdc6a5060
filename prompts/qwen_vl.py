"""Qwen2.5-VL: loaded, and its questions asked; `prompts.answers` judges what it says.

The messages are Chain-of-Zoom's (arXiv 2505.18600, section 3.2, as its published code sends them): the
question is the *system* message, the user's message holds only the pictures.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.Image import Image

from checkpoints.folders import read_json, refuse_differences
from checkpoints.gate import blaming
from errors import InputError
from lora.vlm_adapter import merge_vlm_adapter, todays_name
from prompts.vlm_files import VlmFiles

if TYPE_CHECKING:
    import torch

LONGEST_CHAT = 100_000  # characters; Qwen's own is 300 long
QUESTION_ONE = "What is in this image? Give me a set of words."
QUESTION_TWO = (
    "The second image is a zoom-in of the first image. Based on this knowledge, "
    "what is in the second image? Give me a set of words."
)


def check_vlm(files: VlmFiles) -> None:
    """Check that the files' tensors are exactly those of the network that config.json describes.

    Raises:
        InputError: names what is missing, unexpected or of another shape.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    with blaming(files.folder / "config.json"), _quiet_transformers(), init_empty_weights():
        config = AutoConfig.from_pretrained(files.folder, local_files_only=True)
        model = Qwen2_5_VLForConditionalGeneration(config)
    refuse_differences(
        f"{files.folder}: not a whole Qwen2.5-VL",
        {todays_name(name): info.shape for name, info in files.model.tensors.items()},
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        optional=("lm_head.weight",) if config.tie_word_embeddings else (),
        way_out="download the folder again",
    )


def load_vlm(files: VlmFiles, device: "torch.device", dtype: "torch.dtype") -> "torch.nn.Module":
    """Load Qwen2.5-VL with its adapter merged, set to greedy decoding, in eval mode.

    Decoding: the published code leaves it to the folder's generation_config.json, which for
    Qwen2.5-VL-3B-Instruct samples at temperature 1e-6 with a repetition penalty of 1.05. That is greedy
    decoding but for ties; here it is greedy, and the penalty is kept.

    Args:
        files: that `check_vlm` found whole.
        device: where it will compute.
        dtype: of weights and arithmetic.

    Raises:
        InputError: the files have changed since they were checked.
    """
    import torch
    from transformers import AutoTokenizer, GenerationConfig, Qwen2_5_VLForConditionalGeneration

    with blaming(files.folder, "download the folder again"), _quiet_transformers():
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            files.folder,
            # The adapter is added to the weights as they are in the file, so that they are rounded once.
            dtype="auto" if files.adapter else dtype,
            local_files_only=True,
            use_safetensors=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(files.folder, local_files_only=True)
    if files.adapter:
        with blaming(files.adapter.file):
            merge_vlm_adapter(model, files.adapter, dtype)
    stored_path = files.folder / "generation_config.json"
    stored = read_json(stored_path) if stored_path.is_file() else {}
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

        with blaming(folder, "download the folder again"), _quiet_transformers():
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.image_processor = Qwen2VLImageProcessor.from_pretrained(folder, local_files_only=True)
        if self.tokenizer.chat_template is None:  # some revisions keep it in a file of the processor's
            template = read_json(folder / "chat_template.json").get("chat_template")
            if template is None:
                raise InputError(f"{folder}: no chat template in it; download the folder again")
            self.tokenizer.chat_template = template
        with blaming(folder, "download the folder again"):
            if len(self.chat(2)) > LONGEST_CHAT:  # a template is a program of its own
                raise ValueError("its chat template makes an endless text")
            if not all(0 < one < 100 for one in self.image_processor.image_std):
                raise ValueError("image_std is no spread of colours")

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
