"""Weights that stay as they are stored, and arithmetic in a wider dtype, a block at a time."""

import pytest
import torch

from machine.upcast import bytes_of_upcast, upcast_by_block


def blocks():
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.first = torch.nn.Linear(8, 8)
    model.blocks = torch.nn.ModuleList(
        torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU()) for _ in range(3)
    )

    def forward(x):
        x = model.first(x)
        for block in model.blocks:
            x = block(x)
        return x

    model.forward = forward
    return model.bfloat16().requires_grad_(False)


def test_weights_cast_a_block_at_a_time_give_the_numbers_of_fp32_exactly():
    model, x = blocks(), torch.randn(2, 8)
    expected = blocks().float()(x)
    upcast_by_block(model, torch.float32)
    with torch.no_grad():
        assert torch.equal(model(x), expected)
    assert {p.dtype for p in model.blocks.parameters()} == {torch.bfloat16}


def test_only_the_running_block_is_in_fp32():
    model, seen = blocks(), []
    upcast_by_block(model, torch.float32)
    for block in model.blocks:
        block[1].register_forward_hook(lambda *_: seen.append([b[0].weight.dtype for b in model.blocks]))
    with torch.no_grad():
        model(torch.randn(2, 8))
    assert [row.count(torch.float32) for row in seen] == [1, 1, 1]


def test_a_block_that_fails_gets_its_stored_weights_back_and_undoing_restores_all():
    model = blocks()
    undo = upcast_by_block(model, torch.float32)
    with torch.no_grad(), pytest.raises(RuntimeError):
        model.blocks[0](torch.randn(2, 5))
    assert model.blocks[0][0].weight.dtype == torch.bfloat16
    undo()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert model(torch.randn(2, 8).bfloat16()).dtype == torch.bfloat16


def test_what_it_takes_is_all_outside_the_blocks_and_the_largest_block():
    blocks = {"layers.0.a.weight": 10, "layers.1.a.weight": 10, "layers.1.b.0.weight": 7}
    numbers = {"embed.weight": 100, **blocks}
    assert bytes_of_upcast(numbers, torch.bfloat16, torch.float32) == 100 * 2 + 17 * 4
