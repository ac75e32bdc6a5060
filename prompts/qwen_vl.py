"""Questions for Qwen2.5-VL, and for its neighbours that take pictures in the same way: Qwen2-VL, Qwen3-VL."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.Image import Image

from checkpoints.gate import blaming
from prompts.questions import LONGEST_CHAT, conversation
from prompts.transformers_help import chat_template_of, padded_with_own_token, quiet_transformers

if TYPE_CHECKING:
    import torch


class QwenProcessor:
    """Turns pictures into a batch of questions for Qwen2-VL, 2.5-VL and 3-VL, and token ids into text.

    transformers' own processor wants torchvision, for videos; pictures need only its two parts.
    """

    def __init__(self, folder: Path) -> None:
        """Read the tokenizer, the chat template and the image processor's settings.

        Raises:
            InputError: the folder has no chat template.
        """
        from transformers import AutoTokenizer, Qwen2VLImageProcessor

        with blaming(folder, "download the folder again"), quiet_transformers():
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.image_processor = Qwen2VLImageProcessor.from_pretrained(folder, local_files_only=True)
        self.tokenizer.chat_template = chat_template_of(self.tokenizer, folder)
        with blaming(folder, "download the folder again"):
            if len(self.chat(2)) > LONGEST_CHAT:  # a template is a program of its own
                raise ValueError("its chat template makes an endless text")
            if not all(0 < one < 100 for one in self.image_processor.image_std):
                raise ValueError("image_std is no spread of colours")

    def chat(self, pictures: int) -> str:
        """Return the conversation about one or two pictures as text, each picture one ``<|image_pad|>``."""
        messages = conversation([None] * pictures)
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def __call__(
        self, rows: Sequence[Sequence[Image]], chats: Sequence[str] | None = None
    ) -> "dict[str, torch.Tensor]":
        """Prepare a batch of questions.

        Args:
            rows: the pictures of each question, one or two RGB pictures, of any sizes.
            chats: each question as the template writes it; None for the extractor's own (`chat`).

        Returns:
            ``input_ids`` and ``attention_mask`` (B, tokens), padded on the left; ``pixel_values``
            (patches of all pictures, numbers of a patch), float32; ``image_grid_thw`` (pictures, 3), in
            patches.
        """
        import torch

        pictures = [picture for row in rows for picture in row]
        seen = self.image_processor(images=pictures, return_tensors="pt")
        # A picture stands in the text as one token for every merge_size x merge_size of its patches.
        counts = iter((seen["image_grid_thw"].prod(1) // self.image_processor.merge_size**2).tolist())
        ids = []
        for chat in chats or [self.chat(len(row)) for row in rows]:
            head, *tails = chat.split("<|image_pad|>")
            text = head + "".join("<|image_pad|>" * next(counts) + tail for tail in tails)
            ids.append(self.tokenizer(text)["input_ids"])
        padded, mask = padded_with_own_token(ids)
        return {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask), **seen}

    def decode(self, ids: "torch.Tensor") -> list[str]:
        """Return the text of each row of new token ids, special tokens left out."""
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
