"""Where checkpoints lie in ``ckpt/``; ckpt/README.md says where they come from."""

from pathlib import Path

CKPT = Path(__file__).parent.parent / "ckpt"
RAM, DAPE = CKPT / "RAM" / "ram_swin_large_14m.pth", CKPT / "DAPE" / "DAPE.pth"
SR_LORA, SR_VAE = CKPT / "SR_LoRA" / "model_20001.pkl", CKPT / "SR_VAE" / "vae_encoder_20001.pt"
QUANTIZED = CKPT / "quantized"


def default_help(path: Path) -> str:
    """Say in a help text that a file is found by itself."""
    return f"(default: {path.relative_to(CKPT.parent).as_posix()} if there)"
