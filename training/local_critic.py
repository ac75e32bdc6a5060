"""A critic in this process: a picture-text model through transformers, such as Qwen2.5-VL-7B or InternVL."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from errors import InputError
from prompts.vlm_files import VlmFiles, check_vlm_folder
from training.critics import LONGEST_VERDICT, Candidate, Verdict, messages, verdict_of

if TYPE_CHECKING:
    import torch


def find_critic(model: str, download: bool) -> VlmFiles:
    """Find a model that compares pictures and text, and check what its headers and configurations tell.

    Args:
        model: a folder in transformers' layout, or a name on the Hugging Face hub.
        download: whether a hub name may be fetched where it is not in the hub's cache.

    Raises:
        InputError: one line with what is wrong and the way out.
    """
    try:
        return check_vlm_folder(model, None, download)
    except InputError as error:
        raise InputError(f"--critic {_in_our_words(error)}") from None


def _in_our_words(error: InputError) -> str:
    return str(error).replace("but --vlm_path needs", "but a critic is").replace("--vlm_url", "its address")


class LocalCritic:
    """Scores answers with a model that this process loads when it is first asked.

    Args:
        files: from `find_critic`.
        device: where it computes; in the dtype that `machine.devices` chooses there.
        at_once: questions in one forward pass; halved where memory ends, down to one.
    """

    def __init__(self, files: VlmFiles, device: "torch.device", at_once: int) -> None:
        self.files, self.device, self.at_once = files, device, at_once
        self._loaded: tuple[Any, Any] | None = None

    def begin(self) -> None:
        """Read the model, to fail before anything has been done.

        Raises:
            InputError: it is not whole, of a kind that transformers does not have, or wants what is not
                installed.
        """
        from machine.devices import choose_dtype
        from prompts.vlm_loading import check_vlm, load_vlm, processor_of

        if self._loaded is not None:
            return
        try:
            files = check_vlm(self.files)
            processor = processor_of(files)
            dtype = choose_dtype("auto", self.device, files.model.dtype)
            self._loaded = processor, load_vlm(files, self.device, dtype)
        except InputError as error:
            raise InputError(f"--critic {_in_our_words(error)}") from None

    def __call__(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """Return a verdict for each candidate, in order."""
        from machine.memory import out_of_memory

        verdicts: list[Verdict] = []
        while len(verdicts) < len(candidates):
            batch = candidates[len(verdicts) : len(verdicts) + self.at_once]
            try:
                verdicts += map(verdict_of, self._answers(batch))
            except Exception as error:
                if not out_of_memory(error) or self.at_once == 1:
                    raise
                self.at_once //= 2
        return verdicts

    def _answers(self, candidates: Sequence[Candidate]) -> list[str]:
        from prompts.vlm_loading import generate

        self.begin()
        assert self._loaded is not None
        processor, model = self._loaded
        rows = [[one.pair.parent, one.pair.sr_input] for one in candidates]
        asked = processor(rows, [self._chat(processor.tokenizer, one) for one in candidates])
        answers: list[str] = processor.decode(generate(model, asked, LONGEST_VERDICT))
        return answers

    def _chat(self, tokenizer: Any, candidate: Candidate) -> str:
        """Return the question as text; what the answer says cannot be one of the tokenizer's own marks."""
        answer = candidate.answer
        for mark in tokenizer.get_added_vocab():
            answer = answer.replace(mark, " ")
        asked = messages(Candidate(candidate.pair, answer))
        text: str = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        return text

    def describe(self) -> dict[str, object]:
        """Name the model and its size."""
        return {"critic": "local", "model": self.files.name, "parameters": self.files.model.parameters}
