"""What a step's picture shows, in words: the prompts that steer the SR backbone.

Three extractors behind one protocol (`zoom.protocols.PromptExtractor`), as in Chain-of-Zoom (arXiv
2505.18600, section 3.2): none, RAM's tags with DAPE, and the answer of Qwen2.5-VL. Each yields one prompt an
input, in order, a batch at a time.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from PIL.Image import Image

from errors import PictureError
from machine.machine import Machine
from machine.memory import Size
from prompts.answers import cleaned, fault_of
from prompts.qwen_vl import QwenProcessor, check_vlm, generate, load_vlm
from prompts.vlm_files import VlmFiles
from ram.files import RamFiles
from zoom.protocols import Prompt, StepInput

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DAPE, VLM = "prompt.dape", "prompt.vlm"  # components of the residency


class NullExtractor:
    """Says nothing: the user's words, or the empty prompt, steer the backbone."""

    def __call__(self, inputs: Sequence[StepInput]) -> Iterator[Prompt]:
        """Yield an empty prompt for each input, looking at none of them."""
        for _ in inputs:
            yield Prompt(text="", extractor="null")

    def describe(self) -> dict[str, object]:
        """Say what it is, for run.json."""
        return {"extractor": "null"}


class DapeExtractor:
    """Names what is in the SR input: RAM's tags with DAPE, joined by ``", "``."""

    def __init__(self, files: RamFiles, machine: Machine) -> None:
        """Check every tensor's name and shape and register the tagger; nothing heavy is loaded yet.

        Args:
            files: checked.
            machine: holds the tagger on its VLM's device. The comparison with the thresholds is float32.

        Raises:
            InputError: RAM is not whole.
        """
        from ram.model import build_tagger

        self.files, self.machine = files, machine
        self.device = machine.devices.vlm
        self.dtype = machine.dtype(self.device)
        parameters = sum(parameter.numel() for parameter in build_tagger(files).parameters())
        size = Size(parameters, parameters * self.dtype.itemsize)
        machine.residency.add(DAPE, self._load, self.device, size)

    def _load(self, device: "torch.device") -> "torch.nn.Module":
        from ram.model import load_ram

        return load_ram(self.files, device, self.dtype)

    def __call__(self, inputs: Sequence[StepInput]) -> Iterator[Prompt | PictureError]:
        """Yield the tags of each SR input (RGB, any size); the parents are not looked at.

        A picture in which no tag is sure enough has the empty text.
        """
        for text in self.machine.batches(DAPE, [one.sr_input for one in inputs], self._tag):
            yield text if isinstance(text, PictureError) else Prompt(text=text, extractor="dape", raw=text)

    def _tag(self, pictures: Sequence[Image]) -> list[str]:
        import torch

        from ram.model import prepare, tags_on

        times = self.machine.times
        with times.stage("prompt.dape.prepare"):
            pixels = torch.stack([prepare(picture, self.files.size.image_side) for picture in pictures])
        with (
            self.machine.residency.use(DAPE) as tagger,
            times.stage("prompt.dape.forward"),
            torch.inference_mode(),
        ):
            logits = tagger(pixels.to(self.device, self.dtype)).cpu()
        if not logits.isfinite().all():
            raise PictureError(f"the tagger left the range of {self.dtype}: use --mixed_precision fp32")
        return tags_on(logits, self.files.tags, self.files.thresholds)

    def describe(self) -> dict[str, object]:
        """Say which files tag the pictures, for run.json."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"extractor": "dape", "dtype": dtype, **self.files.describe()}


class VlmExtractor:
    """Asks Qwen2.5-VL what it sees in the SR input, knowing the picture it was cut from."""

    def __init__(
        self, files: VlmFiles, machine: Machine, max_new_tokens: int, fallback: DapeExtractor | None
    ) -> None:
        """Check every tensor's name and shape, and register the VLM; nothing heavy is loaded yet.

        Args:
            files: checked.
            machine: holds the VLM on its device.
            max_new_tokens: where an answer is cut off.
            fallback: speaks where the VLM's answer is no prompt; None leaves the prompt empty then.

        Raises:
            InputError: the VLM is not whole, or its tokenizer or image processor is damaged.
        """
        self.files, self.machine, self.max_new_tokens = files, machine, max_new_tokens
        self.fallback = fallback
        check_vlm(files)
        self._processor = QwenProcessor(files.folder)
        device = machine.devices.vlm
        self.dtype = dtype = machine.dtype(device, files.model.dtype)
        parameters = files.model.parameters
        size = Size(parameters, parameters * dtype.itemsize)
        machine.residency.add(VLM, lambda device: load_vlm(files, device, dtype), device, size)

    def __call__(self, inputs: Sequence[StepInput]) -> Iterator[Prompt | PictureError]:
        """Yield the VLM's cleaned answer to each input; inputs RGB, of any size."""
        return self.machine.batches(VLM, inputs, self._prompts)

    def _prompts(self, inputs: Sequence[StepInput]) -> list[Prompt | PictureError]:
        answers = self._ask(inputs)
        faults = [fault_of(answer) for answer in answers]
        # Asked only now that the VLM is idle: under --efficient_memory the tagger takes its place.
        speaker = NullExtractor() if self.fallback is None else self.fallback
        substitutes = iter(speaker([one for one, fault in zip(inputs, faults, strict=True) if fault]))
        prompts: list[Prompt | PictureError] = []
        for answer, fault in zip(answers, faults, strict=True):
            if not fault:
                prompts.append(Prompt(text=cleaned(answer), extractor="vlm", raw=answer))
                continue
            logger.warning("the VLM's answer is %s: %r", fault, answer)
            other = next(substitutes)
            if isinstance(other, Prompt):
                note = f"the VLM's answer is {fault}"
                other = Prompt(other.text, other.extractor, raw=answer, note=note)
            prompts.append(other)
        return prompts

    def _ask(self, inputs: Sequence[StepInput]) -> list[str]:
        times = self.machine.times
        with times.stage("prompt.vlm.prepare"):
            questions = self._processor(
                [[one.sr_input] if one.parent is None else [one.parent, one.sr_input] for one in inputs]
            )
        with self.machine.residency.use(VLM) as model, times.stage("prompt.vlm.forward"):
            ids = generate(model, questions, self.max_new_tokens)
        return self._processor.decode(ids)

    def describe(self) -> dict[str, object]:
        """Say which model and adapter answer and how, for run.json."""
        return {
            "extractor": "vlm",
            **self.files.describe(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "max_new_tokens": self.max_new_tokens,
            "fallback": (self.fallback or NullExtractor()).describe(),
        }
