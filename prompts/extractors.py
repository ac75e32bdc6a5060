"""What a step's picture shows, in words: the prompts that steer the SR backbone.

Three extractors behind one protocol (`zoom.chain.PromptExtractor`), as in Chain-of-Zoom (arXiv 2505.18600,
section 3.2): none, RAM's tags with DAPE, and the answer of Qwen2.5-VL. Each reads the pictures of a group a
batch at a time and yields one prompt a picture, in order; a picture that cannot be read is yielded as its
`PictureError` and holds up no other.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL.Image import Image

from checkpoints.hashing import sha256_of
from errors import PictureError
from machine.residency import Size
from machine.stage_times import StageTimes
from prompts.qwen_vl import QwenProcessor, answer_fault, check_vlm_folder, generate, load_vlm, one_line
from ram.files import fingerprint, needed_shapes, read_ram_size, read_tags, read_thresholds

if TYPE_CHECKING:
    import torch

    from machine.residency import Residency

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompt:
    """One picture's prompt at one step, with where it came from.

    Attributes:
        text: the words that steer the backbone, before the user's own are joined (`join_prompt`).
        extractor: who said it: ``null``, ``dape``, ``vlm`` or ``file``.
        raw: the model's answer as it came, before it was cleaned; empty where no model spoke.
        note: why another extractor than the run's own had to answer; empty otherwise.
    """

    text: str
    extractor: str
    raw: str = ""
    note: str = ""


def join_prompt(extracted: str, user: str) -> str:
    """Join what an extractor said with the user's ``--prompt``, as the published code does.

    Both: ``"EXTRACTED, USER,"``; only one of them: that one as it is.
    """
    if extracted and user:
        return f"{extracted}, {user},"
    return extracted or user


class NullExtractor:
    """Says nothing: the user's words, or the empty prompt, steer the backbone."""

    def __call__(self, parents: Sequence[Image] | None, inputs: Sequence[Image]) -> Iterator[Prompt]:
        """Yield an empty prompt for each input, reading none of them."""
        for _ in range(len(inputs)):
            yield Prompt(text="", extractor="null")

    def describe(self) -> dict[str, object]:
        """Say what it is, for run.json."""
        return {"extractor": "null"}


class DapeExtractor:
    """Names what is in the SR input: RAM's tags with DAPE, joined by ``", "``."""

    def __init__(
        self,
        ram_path: Path,
        ram_ft_path: Path | None,
        tags_path: Path,
        thresholds_path: Path,
        residency: "Residency",
        device: "torch.device",
        dtype: "torch.dtype",
        batch_size: int,
        times: StageTimes,
    ) -> None:
        """Read the lists and register the tagger as component ``prompt.dape``; nothing heavy is loaded yet.

        Args:
            ram_path: RAM's weights; `ram.files.check_ram_files` checks all four files beforehand.
            ram_ft_path: DAPE; None for plain RAM.
            tags_path: RAM's tag list.
            thresholds_path: RAM's thresholds.
            residency: holds the tagger.
            device: where it computes.
            dtype: of its weights and arithmetic; the comparison with the thresholds is float32.
            batch_size: pictures a forward pass.
            times: gets ``prompt.dape.prepare`` and ``prompt.dape.forward``.

        Raises:
            InputError: a file is missing or broken, or a list has another length than the network.
        """
        size = read_ram_size(ram_path)
        self.tags = read_tags(tags_path, size.tags)
        self.thresholds = read_thresholds(thresholds_path, size.tags)
        self.side = size.image_side
        self.files = {"ram": ram_path, "dape": ram_ft_path}
        self.lists = {"tags": tags_path, "thresholds": thresholds_path}
        self.residency, self.device, self.dtype = residency, device, dtype
        self.batch_size, self.times = batch_size, times
        parameters = sum(math.prod(shape) for shape in needed_shapes(size).values())
        residency.add("prompt.dape", self._load, device, Size(parameters, parameters * dtype.itemsize))

    def _load(self, device: "torch.device") -> "torch.nn.Module":
        from ram.model import load_ram

        ram_path = self.files["ram"]
        assert ram_path is not None
        return load_ram(ram_path, self.files["dape"], device, self.dtype)

    def __call__(
        self, parents: Sequence[Image] | None, inputs: Sequence[Image]
    ) -> Iterator[Prompt | PictureError]:
        """Yield the tags of each input (RGB, any size); the parents are not looked at.

        A picture in which no tag is sure enough has the empty text.
        """
        for rows in _batches(self.batch_size, inputs):
            texts = iter(self._tag([row[0] for row in rows if not isinstance(row, PictureError)]))
            for row in rows:
                if isinstance(row, PictureError):
                    yield row
                else:
                    text = next(texts)
                    yield Prompt(text=text, extractor="dape", raw=text)

    def _tag(self, pictures: list[Image]) -> list[str]:
        if not pictures:
            return []
        with self.times.stage("prompt.dape.load"):
            import torch

            from ram.model import prepare, tags_on

        with self.times.stage("prompt.dape.prepare"):
            pixels = torch.stack([prepare(picture, self.side) for picture in pictures])
        with (
            self.residency.use("prompt.dape") as tagger,
            self.times.stage("prompt.dape.forward"),
            torch.inference_mode(),
        ):
            logits = tagger(pixels.to(self.device, self.dtype)).cpu()
        if not logits.isfinite().all():
            raise PictureError(f"the tagger left the range of {self.dtype}: use --mixed_precision fp32")
        return tags_on(logits, self.tags, self.thresholds)

    def describe(self) -> dict[str, object]:
        """Say which files tag the pictures, by content and not by place, for run.json."""
        described: dict[str, object] = {"extractor": "dape", "dtype": str(self.dtype).removeprefix("torch.")}
        for name, path in self.files.items():
            described[name] = path and {"file": path.name, "fingerprint": fingerprint(path)}
        for name, path in self.lists.items():
            described[name] = {"file": path.name, "sha256": sha256_of(path)}
        return described


class VlmExtractor:
    """Asks Qwen2.5-VL what it sees in the SR input, knowing the picture it was cut from."""

    def __init__(
        self,
        vlm_path: str | Path,
        vlm_lora_path: Path | None,
        residency: "Residency",
        device: "torch.device",
        dtype: "torch.dtype",
        max_new_tokens: int,
        batch_size: int,
        times: StageTimes,
        fallback: DapeExtractor | None,
    ) -> None:
        """Check the folders and register the VLM as component ``prompt.vlm``; nothing heavy is loaded yet.

        Args:
            vlm_path: Qwen2.5-VL: a folder, or a hub name (fetched here where it is not in the cache).
            vlm_lora_path: the tuned prompt extractor's PEFT folder, or None.
            residency: holds the VLM.
            device: where it computes.
            dtype: of its weights and arithmetic.
            max_new_tokens: where an answer is cut off.
            batch_size: questions a forward pass.
            times: gets ``prompt.vlm.prepare`` and ``prompt.vlm.forward``.
            fallback: speaks where the VLM's answer is no prompt; None leaves the prompt empty then.

        Raises:
            InputError: a file is missing or broken, or the adapter is for another model.
        """
        self.files = check_vlm_folder(vlm_path, vlm_lora_path)
        self.residency, self.dtype = residency, dtype
        self.max_new_tokens, self.batch_size, self.times = max_new_tokens, batch_size, times
        self.fallback = fallback
        self._processor: QwenProcessor | None = None
        parameters = self.files.parameters
        residency.add(
            "prompt.vlm",
            lambda device: load_vlm(self.files, device, dtype),
            device,
            Size(parameters, parameters * dtype.itemsize),
        )

    def __call__(
        self, parents: Sequence[Image] | None, inputs: Sequence[Image]
    ) -> Iterator[Prompt | PictureError]:
        """Yield the VLM's answer to each input as one line.

        Args:
            parents: the whole pictures that the inputs were cut from; None to ask about the input alone.
            inputs: the SR inputs. Both RGB, any size, each read once.
        """
        columns = (inputs,) if parents is None else (parents, inputs)
        for rows in _batches(self.batch_size, *columns):
            readable = [row for row in rows if not isinstance(row, PictureError)]
            prompts = iter(self._prompts(readable))
            for row in rows:
                yield row if isinstance(row, PictureError) else next(prompts)

    def _prompts(self, rows: list[list[Image]]) -> Iterator[Prompt | PictureError]:
        if not rows:
            return
        answers = self._ask(rows)
        faults = [answer_fault(answer) for answer in answers]
        # Asked only now that the VLM is idle: under --efficient_memory the tagger takes its place.
        speaker = NullExtractor() if self.fallback is None else self.fallback
        substitutes = iter(speaker(None, [row[-1] for row, fault in zip(rows, faults, strict=True) if fault]))
        for answer, fault in zip(answers, faults, strict=True):
            if not fault:
                yield Prompt(text=one_line(answer), extractor="vlm", raw=answer)
                continue
            logger.warning("the VLM's answer is %s: %r", fault, answer)
            other = next(substitutes)
            if isinstance(other, PictureError):
                yield other
            else:
                yield Prompt(other.text, other.extractor, raw=answer, note=f"the VLM's answer is {fault}")

    def _ask(self, rows: list[list[Image]]) -> list[str]:
        if self._processor is None:
            with self.times.stage("prompt.vlm.load"):
                self._processor = QwenProcessor(self.files.folder)
        with self.times.stage("prompt.vlm.prepare"):
            questions = self._processor(rows)
        with self.residency.use("prompt.vlm") as model, self.times.stage("prompt.vlm.forward"):
            ids = generate(model, questions, self.max_new_tokens)
        return self._processor.decode(ids)

    def describe(self) -> dict[str, object]:
        """Say which model and adapter answer and how, for run.json."""
        adapter = self.files.adapter
        return {
            "extractor": "vlm",
            "model": self.files.name,
            "revision": self.files.revision,
            "bytes": self.files.bytes,
            "adapter": adapter and {"folder": adapter.file.parent.name, "sha256": sha256_of(adapter.file)},
            "dtype": str(self.dtype).removeprefix("torch."),
            "max_new_tokens": self.max_new_tokens,
            "fallback": (self.fallback or NullExtractor()).describe(),
        }


def _batches(size: int, *columns: Sequence[Image]) -> Iterator[list[list[Image] | PictureError]]:
    """Read pictures a batch at a time.

    Args:
        size: rows a batch.
        columns: one or two sequences of equal length.

    Yields:
        Up to ``size`` rows: the pictures of each, or the error where one of them cannot be read.
    """
    for start in range(0, len(columns[0]), size):
        rows: list[list[Image] | PictureError] = []
        for index in range(start, min(start + size, len(columns[0]))):
            try:
                rows.append([column[index] for column in columns])
            except PictureError as error:
                rows.append(error)
        yield rows
