"""A critic that only compares: CLIP's likeness of the answer and the crop."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from checkpoints.gate import blaming
from prompts.vlm_files import VlmFiles
from training.critics import Candidate, Verdict

if TYPE_CHECKING:
    import torch

SCALE = 2.5  # CLIPScore's


class ClipCritic:
    """Scores answers by CLIPScore (Hessel et al., arXiv 2104.08718): 2.5 times the cosine, cut to 0..1.

    It is given as 0 to 100. CLIP sees the crop alone, and of the answer the 77 tokens that CLIP reads.

    Args:
        files: from `training.local_critic.find_critic`.
        device: where it computes.
    """

    def __init__(self, files: VlmFiles, device: "torch.device") -> None:
        self.files, self.device = files, device
        self._loaded: tuple[Any, Any, Any] | None = None

    def begin(self) -> None:
        """Read the model, to fail before anything has been done.

        Raises:
            InputError: it cannot be used.
        """
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

        if self._loaded is not None:
            return
        folder = self.files.folder
        with blaming(folder, "download the folder again"):
            model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
            pictures = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        self._loaded = model.to(self.device).eval().requires_grad_(False), tokenizer, pictures

    def __call__(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """Return a verdict for each candidate, in order."""
        import torch

        self.begin()
        assert self._loaded is not None
        model, tokenizer, pictures = self._loaded
        texts = tokenizer(
            [one.answer for one in candidates],
            padding=True,
            truncation=True,
            max_length=model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.device)
        seen = pictures([one.pair.sr_input for one in candidates], return_tensors="pt").to(self.device)
        with torch.inference_mode():
            said = model.get_text_features(**texts)
            shown = model.get_image_features(**seen)
        likeness = torch.nn.functional.cosine_similarity(said, shown)
        return [Verdict(100 * min(max(SCALE * one, 0.0), 1.0)) for one in likeness.tolist()]

    def describe(self) -> dict[str, object]:
        """Name the model and what its weights are."""
        return {"critic": "clip", "model": self.files.name, "parameters": self.files.model.parameters}
