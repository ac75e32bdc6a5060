"""Where checkpoints lie in ``ckpt/``; `checkpoints.catalogue` says where they come from."""

from pathlib import Path

CKPT = Path(__file__).parent.parent / "ckpt"
RAM, DAPE = CKPT / "RAM" / "ram_swin_large_14m.pth", CKPT / "DAPE" / "DAPE.pth"
RAM_TAGS, RAM_THRESHOLDS = RAM.with_name("ram_tag_list.txt"), RAM.with_name("ram_tag_list_threshold.txt")
SR_LORA, SR_VAE = CKPT / "SR_LoRA" / "model_20001.pkl", CKPT / "SR_VAE" / "vae_encoder_20001.pt"
VLM_LORA = CKPT / "VLM_LoRA" / "checkpoint-10000"
QUANTIZED = CKPT / "quantized"


def default_help(path: Path) -> str:
    """Say in a help text that a file is found by itself."""
    return f"(default: {path.relative_to(CKPT.parent).as_posix()} if there)"
