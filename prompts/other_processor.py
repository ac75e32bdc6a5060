"""Questions for any other picture-text model of transformers, by that model's own processor, without video.

transformers' processors of models that also watch films want torchvision for those alone. Here they are built
without that part, and with the picture processor that needs no torchvision: so the pixels that a model sees
do not depend on what is installed.
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from checkpoints.folders import read_json
from checkpoints.gate import blaming, check_configuration
from errors import InputError
from prompts.questions import LONGEST_CHAT, question
from prompts.transformers_help import chat_template_of, padded_with_own_token, quiet_transformers
from prompts.vlm_files import VlmFiles

if TYPE_CHECKING:
    import torch

# SmolVLM's own imports torchvision and num2words, for films; for pictures the two write the same text.
SAME_FOR_PICTURES = {"SmolVLMProcessor": "Idefics3Processor"}
PARTS = ("image_processor", "tokenizer", "video_processor", "chat_template")
MOST_TOKENS = 100_000  # of a question about two small pictures
MOST_TOKENS_OF_A_PICTURE = 2**14  # or of each of its parts; real ones are 64 to 1024


class OtherProcessor:
    """Turns pictures into a batch of questions for a model, and token ids into text."""

    def __init__(self, files: VlmFiles) -> None:
        """Read the tokenizer, the chat template and the picture settings, and try them.

        Raises:
            InputError: one of them cannot be used, or wants what is not installed.
        """
        from transformers import AutoTokenizer

        self.files = files
        with blaming(files.folder, "download the folder again"), quiet_transformers():
            self.tokenizer = AutoTokenizer.from_pretrained(
                files.folder, local_files_only=True, trust_remote_code=False
            )
            if self.tokenizer.pad_token is None:
                self.tokenizer.pad_token = self.tokenizer.eos_token
            self._processor = self._without_video()
        self.tokenizer.chat_template = chat_template_of(self.tokenizer, files.folder)
        with blaming(files.folder, "download the folder again"), quiet_transformers():
            ways = [way for way in (True, False) if all(self._question_is_in(n, way) for n in (1, 2))]
            if not ways:
                raise ValueError("its chat template leaves the question out, or has no end")
            self._asks_in_system = ways[0]
            small = Image.new("RGB", (64, 64))
            tried = self([[small], [small, small]])
            if tried["input_ids"].shape[1] > MOST_TOKENS:
                raise ValueError("a picture is too many tokens")
            config = self.files.model.config
            mark = config.get("image_token_id", config.get("image_token_index"))
            if isinstance(mark, int) and any(mark not in row for row in tried["input_ids"].tolist()):
                raise ValueError("a picture is no token")
            if not all(tensor.isfinite().all() for tensor in tried.values()):
                raise ValueError("a picture gives numbers that are none")

    def _without_video(self) -> Any:
        """Build the model's own processor from what it needs for pictures."""
        import transformers
        from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

        name = PROCESSOR_MAPPING_NAMES.get(self.files.kind, "")
        own = getattr(transformers, SAME_FOR_PICTURES.get(name, name), None)
        if own is None:
            raise ValueError(f"transformers has no processor for the kind {self.files.kind}")

        class WithoutVideo(own):  # type: ignore[misc, valid-type]
            def check_argument_for_proper_class(self, argument_name: str, argument: object) -> Any:
                if argument_name in ("video_processor", "image_processor"):  # none, and see SAME_FOR_PICTURES
                    return type(argument)
                return super().check_argument_for_proper_class(argument_name, argument)

        path = self.files.folder / "processor_config.json"
        settings = read_json(path) if path.is_file() else {}
        check_configuration(settings, path)
        taken = inspect.signature(own.__init__).parameters
        settings = {name: one for name, one in settings.items() if name in taken and name not in PARTS}
        if any(isinstance(one, int) and one > MOST_TOKENS_OF_A_PICTURE for one in settings.values()):
            raise ValueError("a picture is too many tokens")
        parts = {"image_processor": self._image_processor(), "tokenizer": self.tokenizer}
        if "video_processor" in taken:
            parts["video_processor"] = None
        return WithoutVideo(**parts, **settings)

    def _image_processor(self) -> Any:
        from transformers import AutoImageProcessor

        try:
            return AutoImageProcessor.from_pretrained(
                self.files.folder, use_fast=False, local_files_only=True, trust_remote_code=False
            )
        except ValueError as error:
            if "does not have a slow version" not in str(error):
                raise
        raise InputError(
            f"{self.files.folder}: a {self.files.kind} model, whose pictures transformers only prepares with "
            "torchvision, which is not used here; ask it behind a server: --vlm_url"
        )

    def _question_is_in(self, pictures: int, in_system: bool) -> bool:
        """Tell whether the template writes the question, as the system message or after the pictures."""
        from jinja2 import TemplateError

        try:
            chat = self._render(pictures, in_system)
        except TemplateError:  # several templates refuse system messages
            return False
        return question(pictures) in chat and len(chat) <= LONGEST_CHAT

    def _render(self, pictures: int, in_system: bool) -> str:
        text = {"type": "text", "text": question(pictures)}
        shown = [{"type": "image"}] * pictures
        messages = [{"role": "system", "content": [text]}, {"role": "user", "content": shown}]
        if not in_system:
            messages = [{"role": "user", "content": [*shown, text]}]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def chat(self, pictures: int) -> str:
        """Return the conversation about one or two pictures as text, each picture the model's mark."""
        return self._render(pictures, self._asks_in_system)

    def __call__(
        self, rows: Sequence[Sequence[Image.Image]], chats: Sequence[str] | None = None
    ) -> "dict[str, torch.Tensor]":
        """Prepare a batch of questions.

        Args:
            rows: the pictures of each question, one or two RGB pictures, of any sizes.
            chats: each question as the template writes it; None for the extractor's own (`chat`).

        Returns:
            ``input_ids`` and ``attention_mask`` (B, tokens), padded on the left, and the other inputs.
        """
        import torch

        texts = list(chats or (self.chat(len(row)) for row in rows))
        begins = self.tokenizer.bos_token is not None and texts[0].startswith(self.tokenizer.bos_token)
        seen = self._processor(
            text=texts,
            images=[list(row) for row in rows],
            padding=True,
            padding_side="left",
            add_special_tokens=not begins,
            return_tensors="pt",
        )
        ids = [
            row[mask.bool()].tolist()
            for row, mask in zip(seen["input_ids"], seen["attention_mask"], strict=True)
        ]
        padded, mask = padded_with_own_token(ids)
        return {**seen, "input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}

    def decode(self, ids: "torch.Tensor") -> list[str]:
        """Return the text of each row of new token ids, special tokens left out."""
        return self.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
