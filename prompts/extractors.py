"""What a step's picture shows, in words: the prompts that steer the SR backbone.

Extractors behind one protocol (`zoom.protocols.PromptExtractor`), as in Chain-of-Zoom (arXiv 2505.18600,
section 3.2): none, RAM's tags with DAPE, and the answer of a VLM, here or behind a server. Each yields one
prompt an input, in order.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from PIL.Image import Image

from errors import PictureError
from machine.devices import emulates_bf16
from machine.machine import Machine
from machine.memory import Size
from machine.stage_times import StageTimes
from machine.upcast import bytes_of_upcast, upcast_by_block
from prompts.answer_cache import AnswerCache, digest_of_question
from prompts.answers import cleaned, fault_of
from prompts.questions import conversation, pictures_of
from prompts.vlm_files import VlmFiles
from prompts.vlm_loading import check_vlm, generate, load_vlm, processor_of
from prompts.vlm_server import ServerFailure, VlmServer
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
        weights = [files.ram] if files.dape is None else [files.ram, files.dape]
        machine.residency.add(DAPE, self._load, self.device, size, weights)

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
    """Asks Qwen2.5-VL, or another VLM, what it sees in the SR input, knowing what that was cut from."""

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
        import torch

        self.files, self.machine, self.max_new_tokens = check_vlm(files), machine, max_new_tokens
        self.fallback = fallback
        self._processor = processor_of(files)
        device = machine.devices.vlm
        self.dtype = dtype = machine.dtype(device, files.model.dtype)
        parameters = files.model.parameters
        in_memory = parameters * dtype.itemsize
        # In fp32 a 3B model takes 15 GB. So its weights stay in their 16 bits where the CPU emulates bf16, in
        # which an answer takes three times as long.
        self._upcast = machine.precision == "auto" and dtype == torch.bfloat16 and emulates_bf16(device)
        if self._upcast:
            self.dtype = torch.float32
            numbers = {name: math.prod(info.shape) for name, info in files.model.tensors.items()}
            in_memory += bytes_of_upcast(numbers, dtype, self.dtype)
        size = Size(parameters, in_memory)
        machine.residency.add(VLM, lambda device: self._load(device, dtype), device, size, files.model.files)

    def _load(self, device: "torch.device", dtype: "torch.dtype") -> "torch.nn.Module":
        model = load_vlm(self.files, device, dtype)
        if self._upcast:
            upcast_by_block(model, self.dtype)
        return model

    def __call__(self, inputs: Sequence[StepInput]) -> Iterator[Prompt | PictureError]:
        """Yield the VLM's cleaned answer to each input; inputs RGB, of any size."""
        return self.machine.batches(VLM, inputs, self._prompts)

    def _prompts(self, inputs: Sequence[StepInput]) -> list[Prompt | PictureError]:
        answers = self._ask(inputs)  # the fallback speaks when the VLM is idle: it may take its place
        return prompts_from(inputs, answers, self.fallback)

    def _ask(self, inputs: Sequence[StepInput]) -> list[str]:
        times = self.machine.times
        with times.stage("prompt.vlm.prepare"):
            questions = self._processor([pictures_of(one) for one in inputs])
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


class ServerExtractor:
    """Asks a VLM behind a server the same questions, several at a time."""

    def __init__(
        self,
        server: VlmServer,
        times: StageTimes,
        max_new_tokens: int,
        at_once: int,
        fallback: DapeExtractor | None,
        cache: AnswerCache | None = None,
    ) -> None:
        """Make ready to ask.

        Args:
            server: checked.
            times: to add the seconds to.
            max_new_tokens: where an answer is cut off.
            at_once: questions that the server has at a time, at most.
            fallback: see `prompts_from`.
            cache: of answers that the server has given before; None asks every question.
        """
        self.server, self.times, self.max_new_tokens = server, times, max_new_tokens
        self.at_once, self.fallback, self.cache = at_once, fallback, cache

    def __call__(self, inputs: Sequence[StepInput]) -> Iterator[Prompt | PictureError]:
        """Yield the server's cleaned answer to each input; inputs RGB, of any size."""
        pool = ThreadPoolExecutor(self.at_once, thread_name_prefix="vlm")
        try:
            for one, answer in zip(inputs, [pool.submit(self._ask, one) for one in inputs], strict=True):
                with self.times.stage(f"{VLM}.answer"):
                    said = answer.result()
                yield from prompts_from([one], [said], self.fallback)
        finally:  # an interrupted run does not wait for answers
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, one: StepInput) -> str | ServerFailure:
        messages = conversation(pictures_of(one))
        question = None
        if self.cache is not None:
            about = {"server": self.server.identity, "max_tokens": self.max_new_tokens}
            question = digest_of_question(about, messages)
            known = self.cache.get(question)
            if known is not None:
                return known
        try:
            answer = self.server.ask(messages, self.max_new_tokens)
        except ServerFailure as failure:
            return failure
        if self.cache is not None and question is not None:
            self.cache.put(question, answer)
        return answer

    def describe(self) -> dict[str, object]:
        """Say which model answers and how, for run.json; where it is served may change between runs."""
        return {
            "extractor": "vlm",
            "model": self.server.model,
            "served": True,
            "max_new_tokens": self.max_new_tokens,
            "fallback": (self.fallback or NullExtractor()).describe(),
        }


def prompts_from(
    inputs: Sequence[StepInput], answers: Sequence[str | ServerFailure], fallback: DapeExtractor | None
) -> list[Prompt | PictureError]:
    """Make prompts of a VLM's answers; where one is no prompt, or there is none, another extractor speaks.

    Args:
        inputs: what was asked about.
        answers: to each, as they came.
        fallback: speaks instead; None leaves the prompt empty then.
    """
    notes = [_note_on(answer) for answer in answers]
    speaker = NullExtractor() if fallback is None else fallback
    substitutes = iter(speaker([one for one, note in zip(inputs, notes, strict=True) if note]))
    prompts: list[Prompt | PictureError] = []
    for answer, note in zip(answers, notes, strict=True):
        raw = "" if isinstance(answer, ServerFailure) else answer
        if not note:
            prompts.append(Prompt(text=cleaned(raw), extractor="vlm", raw=raw))
            continue
        logger.warning("%s%s", note, f": {raw!r}" if raw else "")
        other = next(substitutes)
        if isinstance(other, Prompt):
            other = Prompt(other.text, other.extractor, raw=raw, note=note)
        prompts.append(other)
    return prompts


def _note_on(answer: str | ServerFailure) -> str:
    if isinstance(answer, ServerFailure):
        return f"the VLM gave no answer: {answer}"
    fault = fault_of(answer)
    return f"the VLM's answer is {fault}" if fault else ""
