"""Qwen2.5-VL's processor as transformers and TRL want it, without torchvision."""

from pathlib import Path
from typing import Any

from prompts.qwen_vl import QwenProcessor


def processor_of(folder: Path) -> Any:
    """Return a `transformers.ProcessorMixin` that makes the token ids of `prompts.qwen_vl.QwenProcessor`.

    transformers' own wants torchvision for its third part, which is for videos; here it has two.

    Args:
        folder: of a Qwen2.5-VL that was checked.

    Raises:
        InputError: its tokenizer or image processor is damaged.
    """
    from transformers import Qwen2_5_VLProcessor

    class WithoutVideos(Qwen2_5_VLProcessor):
        attributes = ("image_processor", "tokenizer")

        def __init__(self, image_processor: Any, tokenizer: Any, chat_template: str) -> None:
            self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
            self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
            self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
            # past Qwen2_5_VLProcessor's constructor, which would count three parts
            super(Qwen2_5_VLProcessor, self).__init__(image_processor, tokenizer, chat_template=chat_template)

    ours = QwenProcessor(folder)
    ours.tokenizer.padding_side = "left"
    return WithoutVideos(ours.image_processor, ours.tokenizer, ours.tokenizer.chat_template)
