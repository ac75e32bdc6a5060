"""Prompts to text embeddings: SD3's three text encoders, one after the other, each distinct prompt once."""

import logging
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from checkpoints.gate import blaming
from errors import PictureError
from machine.machine import Machine
from sd3.checkpoint import SD3Checkpoint
from sd3.resident import ResidentParts
from sd3.spec import PARTS, TEXT_PARTS
from zoom.settings import GROUP

logger = logging.getLogger(__name__)

FEWEST_WORDS = 64  # of a vocabulary that is not lost; the smallest real one has 32,100

Embedding = tuple[torch.Tensor, torch.Tensor]  # prompt_embeds (77 + 512, 4096), pooled (2048,)


class TextEncoders:
    """Encodes prompts, and keeps the embeddings of the last ones (10 MB each in fp32)."""

    def __init__(self, checkpoint: SD3Checkpoint, parts: ResidentParts, machine: Machine) -> None:
        """Read the tokenizers; the encoders' weights wait until they are needed.

        Args:
            checkpoint: SD3, for its tokenizers.
            parts: its networks.
            machine: whose batches and times are used.

        Raises:
            InputError: a tokenizer's files are missing or damaged.
        """
        self._parts, self._machine = parts, machine
        self._tokenizers = {}
        for part in TEXT_PARTS:
            files = checkpoint.parts.get(PARTS[part].folder)  # None where something else encodes
            words = files.config.get("vocab_size") if files else None
            self._tokenizers[part] = load_tokenizer(checkpoint.folder, part, words)
        self._kept: OrderedDict[tuple[str, bool], Embedding] = OrderedDict()

    def __call__(self, prompts: Sequence[str], exact: bool = False) -> dict[str, Embedding | PictureError]:
        """Encode every distinct prompt once, the three text encoders one after the other.

        Args:
            prompts: any number, also equal ones.
            exact: arithmetic in fp32, whatever the dtype of the weights.

        Returns:
            For each prompt on the CPU, in the encoders' dtype: prompt_embeds (77 + 512, 4096), the two CLIPs'
            hidden states side by side, padded with zeros, above T5's; pooled (2048,). A PictureError where
            the encoder ran out of memory.
        """
        distinct = list(dict.fromkeys(prompts))
        missing = [prompt for prompt in distinct if (prompt, exact) not in self._kept]
        results: dict[str, Embedding | PictureError] = {}
        if missing:
            encoded = [list(self._encode(part, missing, exact)) for part in TEXT_PARTS]
            for prompt, *outputs in zip(missing, *encoded, strict=True):
                tensors = [one for one in outputs if not isinstance(one, PictureError)]
                if len(tensors) < len(TEXT_PARTS):
                    results[prompt] = next(one for one in outputs if isinstance(one, PictureError))
                else:
                    self._kept[prompt, exact] = join_embeddings(*tensors)
        for prompt in distinct:
            if (prompt, exact) in self._kept:
                self._kept.move_to_end((prompt, exact))
                results[prompt] = self._kept[prompt, exact]
        while len(self._kept) > GROUP:
            self._kept.popitem(last=False)
        return results

    def _encode(
        self, part: str, prompts: Sequence[str], exact: bool
    ) -> Iterator[tuple[torch.Tensor, ...] | PictureError]:
        """Yield what one text encoder makes of each prompt, on the CPU, without the batch axis."""

        def encode(batch: Sequence[str]) -> list[tuple[torch.Tensor, ...]]:
            with self._machine.times.stage("text.tokenize"):
                input_ids = self._tokenize(part, batch)
            with (
                self._parts.use(part, exact) as call,
                self._machine.times.stage("text.encode.forward"),
                torch.no_grad(),
            ):
                output = call(input_ids)
                tensors = output if isinstance(output, tuple) else (output,)
                return list(zip(*(tensor.cpu() for tensor in tensors), strict=True))

        return self._machine.batches(part, prompts, encode)

    def _tokenize(self, part: str, prompts: Sequence[str]) -> torch.Tensor:
        spec, tokenizer = PARTS[part], self._tokenizers[part]
        for prompt in prompts:
            count = len(tokenizer.tokenize(prompt)) + spec.special_tokens
            if count > spec.tokens:
                logger.info(
                    "%s reads %d of the %d tokens of the prompt: %s", part, spec.tokens, count, prompt
                )
        return token_ids(tokenizer, part, prompts)


def load_tokenizer(folder: Path, part: str, words: int | None = None) -> Any:
    """Return the tokenizer of a text encoder.

    Args:
        folder: SD3 in diffusers layout.
        part: text_enc_1, text_enc_2 or text_enc_3.
        words: that the encoder knows; None where nobody can say.

    Raises:
        InputError: its files are missing or damaged.
    """
    from transformers import CLIPTokenizer, T5TokenizerFast

    path = folder / PARTS[part].tokenizer
    kind = T5TokenizerFast if part == "text_enc_3" else CLIPTokenizer
    with blaming(path, f"not a {kind.__name__}; download it again"):
        tokenizer = kind.from_pretrained(path, local_files_only=True)
        tokenizer("a")  # what its files lack, some kinds only say when they are used
        vocabulary = tokenizer.get_vocab().values()
        if len(vocabulary) < FEWEST_WORDS or (words is not None and max(vocabulary) >= words):
            raise ValueError(f"{len(vocabulary)} words, and the encoder knows {words}")
    return tokenizer


def token_ids(tokenizer: Any, part: str, prompts: Sequence[str]) -> torch.Tensor:
    """Return token ids (B, 77) for the CLIPs, (B, 512) for T5, padded or cut to that length."""
    return tokenizer(
        list(prompts),
        padding="max_length",
        max_length=PARTS[part].tokens,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def join_embeddings(
    clip_l: tuple[torch.Tensor, ...], clip_g: tuple[torch.Tensor, ...], t5: tuple[torch.Tensor, ...]
) -> Embedding:
    """Lay the CLIPs' hidden states side by side, pad them to T5's width, and put T5's tokens below."""
    clip = torch.cat([clip_l[0], clip_g[0]], dim=-1)
    clip = torch.nn.functional.pad(clip, (0, t5[0].shape[-1] - clip.shape[-1]))
    return torch.cat([clip, t5[0]]), torch.cat([clip_l[1], clip_g[1]])
