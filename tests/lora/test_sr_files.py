"""The SR LoRA list and the SR VAE encoder: their formats, what they add to the weights, what is refused."""

import json

import pytest
import torch
from conftest import DATA, PARITY

from benchmarks.full_size import write_sr_files
from checkpoints.headers import torch_file_info
from errors import InputError
from lora.sr_lora import check_sr_lora, merge_sr_lora, sr_lora_layers
from lora.vae_encoder import check_vae_encoder, merged_vae_encoder
from sd3.networks import build_on_meta

LORA = PARITY / "SR_LoRA" / "model_20001.pkl"
VAE = PARITY / "SR_VAE" / "vae_encoder_20001.pt"
BLOCKS, WIDTH = 4, 64  # of the tiny transformer


def config(folder, of="sd3_medium"):
    return json.loads((DATA / of / folder / "config.json").read_text())


def encoder_shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.encoder.state_dict().items()}


@pytest.fixture(scope="module")
def tiny_encoder():
    return encoder_shapes(build_on_meta("vae_encoder", config("vae", "parity/sd3")))


@pytest.fixture(scope="module")
def real_transformer():
    """SD3-medium's transformer on the meta device."""
    return build_on_meta("transformer", config("transformer"))


@pytest.fixture(scope="module")
def real_files(tmp_path_factory):
    """SR files of SD3-medium's size, with random numbers."""
    folder = tmp_path_factory.mktemp("real_size")
    write_sr_files(folder)
    return folder


# SR LoRA


def test_the_pairs_belong_to_the_adaptive_norms_in_module_order_and_the_last_block_has_one(real_transformer):
    names = [name for name, _ in sr_lora_layers(real_transformer)]
    assert names[:3] == [
        "transformer_blocks.0.norm1.linear",
        "transformer_blocks.0.norm1_context.linear",
        "transformer_blocks.1.norm1.linear",
    ]
    assert names[-1] == "transformer_blocks.23.norm1.linear"


def test_sd3_medium_has_47_layers_of_up_9216_by_4_and_down_4_by_1536(real_files):
    content = torch_file_info(real_files / "model_20001.pkl")
    assert len(content) == 94
    assert {info.shape for info in content[::2]} == {(9216, 4)}
    assert {info.shape for info in content[1::2]} == {(4, 1536)}
    assert check_sr_lora(real_files / "model_20001.pkl", blocks=24, width=1536) == 4


def test_a_lora_of_real_size_merges_into_sd3_medium(real_files):
    transformer = build_on_meta("transformer", config("transformer"))
    merged = merge_sr_lora(transformer, real_files / "model_20001.pkl", torch.bfloat16)
    assert merged == 47
    assert {layer.weight.dtype for _, layer in sr_lora_layers(transformer)} == {torch.bfloat16}


def small_transformer(dtype):
    transformer = build_on_meta("transformer", config("transformer", "parity/sd3")).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in transformer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(dtype)
    return transformer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_adds_up_times_down_in_fp32_and_casts_once(dtype):
    before, after = small_transformer(dtype), small_transformer(dtype)
    merge_sr_lora(after, LORA, dtype)
    factors = torch.load(LORA, weights_only=True)
    assert any(factor.any() for factor in factors)
    for number, ((_, old), (_, new)) in enumerate(
        zip(sr_lora_layers(before), sr_lora_layers(after), strict=True)
    ):
        exact = old.weight.double() + factors[2 * number].double() @ factors[2 * number + 1].double()
        tolerance = 1e-5 if dtype == torch.float32 else 2**-8
        torch.testing.assert_close(new.weight.double(), exact, rtol=tolerance, atol=1e-5)
    assert new.weight.dtype == dtype


def changed(path, change):
    """Save the parity file with a change at `path`."""
    source = LORA if path.suffix == ".pkl" else VAE
    content = torch.load(source, weights_only=True)
    torch.save(change(content) or content, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[:-2], r"12 tensors, but a transformer of 4 blocks has 7 layers and needs 14"),
        (lambda f: [t[:, :1] if i % 2 == 0 else t for i, t in enumerate(f)], r"up factor 0 is \(384, 1\)"),
        (lambda f: [t[..., :32] if i % 2 else t for i, t in enumerate(f)], r"down factor 0 is \(4, 32\)"),
        (lambda f: f[::-1], r"up factor 0|rank"),
        (lambda f: dict(enumerate(f)), r"holds a dictionary \(0, 1, ...\), not the list"),
        (lambda f: [*f[:-1], "text"], r"holds a list of other things"),
        (lambda f: [t.long() for t in f], r"I64"),
    ],
    ids=["count", "up", "down", "order", "dictionary", "text", "integers"],
)
def test_the_lora_of_another_model_is_refused_with_what_was_expected_and_found(tmp_path, change, message):
    path = changed(tmp_path / "lora.pkl", change)
    with pytest.raises(InputError, match=message) as caught:
        check_sr_lora(path, BLOCKS, WIDTH)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_rank_than_the_user_expects_is_refused():
    assert check_sr_lora(LORA, BLOCKS, WIDTH, rank=4) == 4
    with pytest.raises(InputError, match="of rank 4, but --lora_rank is 8"):
        check_sr_lora(LORA, BLOCKS, WIDTH, rank=8)


# SR VAE encoder


def test_the_names_of_a_vae_file_of_real_size_are_those_of_sd3s_encoder(real_files):
    shapes = encoder_shapes(build_on_meta("vae_encoder", config("vae")))
    assert check_vae_encoder(real_files / "vae_encoder_20001.pt", shapes) == 4
    merged = merged_vae_encoder(real_files / "vae_encoder_20001.pt", torch.device("cpu"))
    assert {name: tuple(tensor.shape) for name, tensor in merged.items()} == shapes


def test_merging_a_convolution_equals_running_peft_s_two_convolutions_beside_it():
    state = torch.load(VAE, weights_only=True)
    merged = merged_vae_encoder(VAE, torch.device("cpu"))
    x = torch.randn(1, 16, 8, 8)
    name = "down_blocks.2.resnets.0.conv1"
    conv = torch.nn.functional.conv2d
    base, a, b = (
        state[f"{name}.{key}.weight"].float()
        for key in ("base_layer", "lora_A.default_encoder", "lora_B.default_encoder")
    )
    expected = conv(x, base, padding=1) + 2 * conv(conv(x, a, padding=1), b)
    assert b.any()
    torch.testing.assert_close(conv(x, merged[f"{name}.weight"], padding=1), expected, rtol=1e-4, atol=1e-5)


def drop(key):
    return lambda state: {name: tensor for name, tensor in state.items() if key not in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {n.replace(".base_layer", ""): t for n, t in s.items() if "lora" not in n},
            "without LoRA",
        ),
        (drop("mid_block.attentions.0.to_q.lora_B"), r"to_q.lora_B.default_encoder.weight is missing"),
        (drop("conv_norm_out"), r"conv_norm_out.\w+ is missing"),
        (lambda s: s | {"extra.weight": torch.zeros(1)}, "extra.weight is unexpected"),
        (
            lambda s: s | {"conv_in.base_layer.bias": torch.zeros(5)},
            r"conv_in.bias is \(5,\) instead of \(16,\)",
        ),
        (
            lambda s: s | {"conv_in.lora_A.default_encoder.weight": torch.zeros(8, 3, 3, 3)},
            r"conv_in.lora_B.default_encoder.weight is \(16, 4, 1, 1\) instead of \(16, 8, 1, 1\)",
        ),
        (
            lambda s: s | {"conv_out.lora_A.default_encoder.weight": torch.zeros(8, 32, 3, 3)},
            r"encoder: conv_out.lora_A.default_encoder.weight is \(8, 32, 3, 3\) instead of \(4, 32, 3, 3\)$",
        ),
        (lambda s: list(s.values()), "not a state dict"),
    ],
    ids=[
        "no LoRA",
        "half a pair",
        "missing",
        "unexpected",
        "shape",
        "rank of the first",
        "rank of another",
        "list",
    ],
)
def test_a_vae_file_of_another_kind_is_refused_with_the_tensor_s_name(
    tmp_path, tiny_encoder, change, message
):
    path = changed(tmp_path / "vae.pt", change)
    with pytest.raises(InputError, match=message) as caught:
        check_vae_encoder(path, tiny_encoder)
    assert "\n" not in str(caught.value)


def test_the_vae_file_of_another_rank_than_the_user_expects_is_refused(tiny_encoder):
    with pytest.raises(InputError, match="of rank 4, but --lora_rank is 8"):
        check_vae_encoder(VAE, tiny_encoder, rank=8)


def test_of_many_tensors_that_do_not_fit_three_are_named_and_the_others_counted(tmp_path, tiny_encoder):
    path = changed(tmp_path / "vae.pt", lambda s: s | {f"extra.{n}": torch.zeros(1) for n in range(5)})
    with pytest.raises(InputError, match=r"(extra\.\d is unexpected(; )?){3} and 2 more$"):
        check_vae_encoder(path, tiny_encoder)
