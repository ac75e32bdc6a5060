"""Picture-text models of transformers: checked without their weights, loaded, and made to answer greedily."""

import dataclasses
from typing import TYPE_CHECKING, Any

from checkpoints.folders import read_json, refuse_differences
from checkpoints.gate import blaming
from errors import InputError
from lora.vlm_adapter import check_vlm_adapter, merge_vlm_adapter
from prompts.other_processor import OtherProcessor
from prompts.qwen_vl import QwenProcessor
from prompts.transformers_help import quiet_transformers
from prompts.vlm_files import QWEN2_5, VlmFiles

if TYPE_CHECKING:
    import torch

# What the networks compute by themselves; files of older versions still hold it.
COMPUTED = ("position_ids", "rotary_emb.inv_freq")
QWEN_KINDS = ("qwen2_vl", QWEN2_5, "qwen3_vl")  # which read pictures in one way


def check_vlm(files: VlmFiles) -> VlmFiles:
    """Check that the files' tensors are exactly those of the network that config.json describes.

    Returns:
        The files, with their adapter checked also where only the network tells which layers it has.

    Raises:
        InputError: names what is missing, unexpected or of another shape; or there is no such network, or the
            adapter was made for another one.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForImageTextToText

    _refuse_unknown_kind(files)
    with blaming(files.folder / "config.json"), quiet_transformers(), init_empty_weights():
        config = AutoConfig.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    renamed = model._get_key_renaming_mapping(list(files.model.tensors), model._checkpoint_conversion_mapping)
    refuse_differences(
        f"{files.folder}: not a whole {files.title}",
        {renamed[name]: info.shape for name, info in files.model.tensors.items()},
        {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        optional=_tied(model),
        ignored=[name for name in renamed.values() if name.endswith(COMPUTED)],
        way_out="download the folder again",
    )
    if files.adapter is not None or files.adapter_folder is None:
        return files
    linears = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
    }
    with blaming(files.adapter_folder):
        adapter = check_vlm_adapter(files.adapter_folder, linears, older_qwen=False)
    return dataclasses.replace(files, adapter=adapter)


def _refuse_unknown_kind(files: VlmFiles) -> None:
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if files.kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise InputError(
            f"{files.folder}: transformers {transformers.__version__} has no picture-text model of the kind "
            f"{files.kind}; where there is a form for transformers (-hf), take it, or ask a server: --vlm_url"
        )


def _tied(model: "torch.nn.Module") -> list[str]:
    """Return the tensors that are others' by another name, and need not be in a file."""
    config: Any = model.config
    is_tied = getattr(config.get_text_config(decoder=True), "tie_word_embeddings", True)
    return list(getattr(model, "_tied_weights_keys", None) or ()) if is_tied else []


def load_vlm(files: VlmFiles, device: "torch.device", dtype: "torch.dtype") -> "torch.nn.Module":
    """Load a picture-text model with its adapter merged, set to greedy decoding, in eval mode.

    Decoding: the published code leaves it to the folder's generation_config.json, which for
    Qwen2.5-VL-3B-Instruct samples at temperature 1e-6 with a repetition penalty of 1.05. That is greedy
    decoding but for ties; here it is greedy, and the penalty is kept.

    Args:
        files: that `check_vlm` found whole.
        device: where it will compute.
        dtype: of weights and arithmetic.

    Raises:
        InputError: the files have changed since they were checked, or a weight would not come from them.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoTokenizer, GenerationConfig

    with blaming(files.folder, "download the folder again"), quiet_transformers():
        model, report = AutoModelForImageTextToText.from_pretrained(
            files.folder,
            # The adapter is added to the weights as they are in the file, so that they are rounded once.
            dtype="auto" if files.adapter else dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            files.folder, local_files_only=True, trust_remote_code=False
        )
    wrong = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in report[kind]]
    wrong = [str(name) for name in wrong if not str(name).endswith((*COMPUTED, *_tied(model)))]
    if wrong:
        raise InputError(
            f"{files.folder}: not a whole {files.title}: {sorted(wrong)[0][:100]}; download the folder again"
        )
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


def processor_of(files: VlmFiles) -> QwenProcessor | OtherProcessor:
    """Return what turns pictures into questions for a model, and its token ids into text.

    Raises:
        InputError: the folder's tokenizer, template or picture settings cannot be used, or want what is not
            installed.
    """
    return QwenProcessor(files.folder) if files.kind in QWEN_KINDS else OtherProcessor(files)


def generate(
    model: "torch.nn.Module", questions: "dict[str, torch.Tensor]", max_new_tokens: int
) -> "torch.Tensor":
    """Answer a batch of questions.

    Args:
        model: as `load_vlm` returns it.
        questions: as `processor_of` makes them.
        max_new_tokens: where an answer is cut off.

    Returns:
        The new token ids only, on the CPU: (B, at most ``max_new_tokens``), padded after the end.
    """
    import torch

    first = next(model.parameters())
    inputs = {
        name: tensor.to(first.device, first.dtype if tensor.is_floating_point() else None)
        for name, tensor in questions.items()
    }
    with torch.inference_mode():
        ids: torch.Tensor = model.generate(**inputs, max_new_tokens=max_new_tokens)  # type: ignore[operator]
    return ids[:, inputs["input_ids"].shape[1] :].cpu()
