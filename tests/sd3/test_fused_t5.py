"""T5 by fused kernels gives what transformers' own gives."""

import torch
from conftest import PARITY
from transformers import T5EncoderModel

from sd3.fused_t5 import FusedAttention, hasten_t5


def test_fused_kernels_give_the_numbers_of_transformers_own():
    encoder = T5EncoderModel.from_pretrained(PARITY / "sd3" / "text_encoder_3", dtype=torch.float32).eval()
    ids = torch.randint(0, 32, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = encoder(ids)[0]
        hasten_t5(encoder)
        made = encoder(ids)[0]
    blocks = encoder.encoder.block
    assert all(isinstance(block.layer[0].SelfAttention, FusedAttention) for block in blocks)
    assert all(isinstance(block.layer[1].DenseReluDense.act, torch.nn.GELU) for block in blocks)
    assert (made - expected).abs().max() < 1e-5 * expected.abs().max()
