"""Tiny picture-text models with random weights, of kinds other than the parity data's, in their real formats.

The tokenizer is the parity data's, with the special tokens that each kind has; templates, processor files and
the order of things follow the published folders of each kind.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from conftest import PARITY
from transformers import AutoTokenizer

TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
}
# SmolVLM2 and Idefics3: parts of a message are a must, a text by itself is passed over
SMOL_CHAT = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
QWEN_CHAT = (PARITY / "qwen" / "chat_template.jinja").read_text()
INTERN_CHAT = QWEN_CHAT.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n")
# no system message at all, as Gemma's first; and LLaVA's, which writes roles in words
GEMMA_CHAT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
LLAVA_CHAT = (
    "{% for message in messages %}{{ message['role'].upper() + ': '}}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def _tokenizer(chat: str, **special: str) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(PARITY / "qwen", extra_special_tokens=special)
    tokenizer.add_tokens(list(special.values()), special_tokens=True)
    tokenizer.chat_template = chat
    return tokenizer


def _text(vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        **TEXT,
        "vocab_size": vocabulary,
        "bos_token_id": 256,
        "eos_token_id": 258,
        "pad_token_id": 256,
    } | more


def _save(
    folder: Path, config: Any, tokenizer: Any, picture: Mapping[str, Any], processor: Mapping[str, Any]
) -> Path:
    torch.manual_seed(7)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    for parameter in model.parameters():  # larger than untrained ones: answers that differ
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.2)
    model.generation_config.repetition_penalty = 1.3  # tied weights would say one token over and over
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(picture))
    if processor:
        (folder / "processor_config.json").write_text(json.dumps(processor))
    return folder


def qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: deep features of the picture are added in the first layers of the text."""
    tokenizer = _tokenizer(QWEN_CHAT)
    ids = tokenizer.convert_tokens_to_ids
    config = transformers.Qwen3VLConfig(
        text_config=_text(
            len(tokenizer),
            rope_scaling={"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True},
            tie_word_embeddings=True,
        ),
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
            "patch_size": 16,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    picture = {
        "size": {"shortest_edge": 4096, "longest_edge": 16777216},
        "patch_size": 16,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }
    return _save(folder, config, tokenizer, picture, {})


def smolvlm(folder: Path) -> Path:
    """SmolVLM2: pictures cut into parts, each with its place in words."""
    special = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    tokenizer = _tokenizer(SMOL_CHAT, **special)
    tokenizer.add_tokens(
        [f"<row_{r + 1}_col_{c + 1}>" for r in range(6) for c in range(6)], special_tokens=True
    )
    config = transformers.SmolVLMConfig(
        text_config=_text(len(tokenizer), model_type="llama"),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        },
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=256,
    )
    picture = {
        "do_convert_rgb": True,
        "do_image_splitting": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "SmolVLMImageProcessor",
        "max_image_size": {"longest_edge": 64},
        "processor_class": "SmolVLMProcessor",
        "resample": 1,
        "rescale_factor": 0.00392156862745098,
        "size": {"longest_edge": 128},
    }
    return _save(
        folder, config, tokenizer, picture, {"image_seq_len": 4, "processor_class": "SmolVLMProcessor"}
    )


def internvl(folder: Path) -> Path:
    """InternVL3 in its transformers form."""
    special = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = _tokenizer(INTERN_CHAT, **special)
    config = transformers.InternVLConfig(
        text_config=_text(len(tokenizer), model_type="qwen2"),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [64, 64],
            "patch_size": [16, 16],
            "layer_scale_init_value": 0.1,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    picture = {
        "crop_to_patches": False,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "max_patches": 4,
        "min_patches": 1,
        "processor_class": "InternVLProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 64, "width": 64},
    }
    return _save(
        folder, config, tokenizer, picture, {"image_seq_length": 4, "processor_class": "InternVLProcessor"}
    )


def gemma3(folder: Path) -> Path:
    """Gemma 3, with a chat template that has no system message."""
    special = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer = _tokenizer(GEMMA_CHAT, **special)
    config = transformers.Gemma3Config(
        text_config=_text(len(tokenizer), model_type="gemma3_text", sliding_window=64),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
        },
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    picture = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "Gemma3ImageProcessor",
        "image_seq_length": 4,
        "processor_class": "Gemma3Processor",
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 64, "width": 64},
    }
    return _save(
        folder, config, tokenizer, picture, {"image_seq_length": 4, "processor_class": "Gemma3Processor"}
    )


def llava(folder: Path) -> Path:
    """LLaVA 1.5: CLIP, a projection, Llama."""
    tokenizer = _tokenizer(LLAVA_CHAT, image_token="<image>")
    config = transformers.LlavaConfig(
        text_config=_text(len(tokenizer), model_type="llama"),
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 64,
            "patch_size": 16,
            "projection_dim": 16,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    picture = {
        "crop_size": {"height": 64, "width": 64},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 64},
    }
    processor = {
        "num_additional_image_tokens": 1,
        "patch_size": 16,
        "processor_class": "LlavaProcessor",
        "vision_feature_select_strategy": "default",
    }
    return _save(folder, config, tokenizer, picture, processor)


TINY: dict[str, Callable[[Path], Path]] = {
    "qwen3_vl": qwen3_vl,
    "smolvlm": smolvlm,
    "internvl": internvl,
    "gemma3": gemma3,
    "llava": llava,
}
