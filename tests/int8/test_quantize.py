"""Quantizing SD3's parts: the command from outside, the choice of what becomes int8, and the ONNX files."""

import errno
import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import PARITY, ROOT
from packaging.requirements import Requirement
from PIL import Image
from quantized_parts import FROM, LORA, MODEL, RUN, VAE, quantized_parts

from checkpoints import hashing
from errors import InputError
from int8 import calibration, choose_layers, make_part
from int8.choose_layers import LayerCost, LayerInput, choose, compare, plans, psnr, relative_error
from int8.export import Activation, LayerPlan, quantize_blocks, quantize_rows, trace, write
from int8.find_parts import part_folder, read_record
from int8.pipeline import PartWeights, Pipeline
from int8.run_part import OnnxPart, session_options
from sd3.spec import PARTS, TEXT_PARTS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    return quantized_parts(tmp_path_factory)


def record(quantized, component):
    return json.loads((part_folder(quantized, component) / "quantization.json").read_text())


@pytest.fixture(scope="module")
def pipeline():
    from sd3.checkpoint import check_sd3

    checkpoint = check_sd3(str(MODEL), LORA, VAE)
    return Pipeline(checkpoint, calibration.read_calibration(RUN, 4), CPU)


# the command


def test_help_shows_every_default_and_the_exit_codes_and_imports_nothing_heavy():
    code = (
        "import sys, quantize_model\ntry:\n    quantize_model.main(['--help'])\nexcept SystemExit:\n"
        "    assert not {'torch', 'numpy', 'PIL', 'transformers', 'onnxruntime'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = " ".join(done.stdout.split())
    for default in ("(default: text_enc_1)", "(default: 10)", "(default: cpu)", "exit codes: 0"):
        assert default in text


def test_options_may_be_written_with_dashes(command, tmp_path):
    done = command("quantize_model", "--num-calibration-samples", 0, "--output-dir", tmp_path)
    assert done.code == 2
    assert "--num_calibration_samples: must be 1 or more, not 0" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--pretrained_model_name_or_path", "nowhere/at/all"), "no such folder"),
        (("--calibration_data", "missing.txt"), "missing.txt: no such file or folder"),
        (("--lora_path", LORA), "--lora_path only goes with transformer"),
        (("--model_component", "all", "--lora_path", LORA), "--lora_path without --vae_path"),
        (("--device_for_quant_script", "tpu"), "tpu: not a device"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(command, tmp_path, arguments, message):
    base = () if "--pretrained_model_name_or_path" in arguments else FROM[:2]
    done = command("quantize_model", "--output_dir", tmp_path / "out", *base, *arguments)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_too_small_a_disk_is_told_before_anything_is_read(command, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    done = command("quantize_model", "--output_dir", tmp_path, *FROM[:2])
    assert done.code == 2
    assert "are needed" in done.err


@pytest.mark.parametrize("component", PARTS)
def test_every_part_is_written_with_its_data_and_a_record(quantized, component):
    folder = part_folder(quantized, component)
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json", "model.onnx", "model.onnx.data", "ort_config.json", "quantization.json",
    ]  # fmt: skip
    written = record(quantized, component)
    assert written["bar_met"] is True
    assert written["files"]["model.onnx.data"]["bytes"] == (folder / "model.onnx.data").stat().st_size
    assert len(written["made_from"]["config"]["sha256"]) == 64
    assert written["versions"].keys() >= {"torch", "onnx", "onnxruntime"}
    assert written["calibration"]["source"] == str(RUN)


@pytest.mark.parametrize("component", TEXT_PARTS)
def test_text_encoders_come_within_the_bar_on_prompts_they_were_not_calibrated_with(quantized, component):
    written = record(quantized, component)
    for output in written["fidelity"]["outputs"].values():
        assert output["cosine"] >= written["bar"]["cosine"]
        assert output["worst_token"] >= written["bar"]["worst_token"]
    assert written["calibration"]["held_out_prompts"] != written["calibration"]["prompts"]


@pytest.mark.parametrize("component", [part for part in PARTS if part not in TEXT_PARTS])
def test_parts_that_make_pixels_are_measured_by_the_sr_picture(quantized, component):
    written = record(quantized, component)
    assert written["fidelity"]["sr_psnr"] >= written["bar"]["sr_psnr"]


@pytest.mark.parametrize("component", PARTS)
def test_every_linear_layer_of_a_part_is_planned_and_named_as_in_pytorch(quantized, pipeline, component):
    layers = {
        name
        for name, module in PartWeights(component, pipeline.checkpoint).network().model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    planned = record(quantized, component)["layers"]
    assert layers <= planned.keys()
    assert all(planned[name]["errors"].keys() - {"static"} == {"blocks", "weights"} for name in layers)


@pytest.mark.parametrize("component", TEXT_PARTS)
def test_the_batch_is_free_and_the_number_of_tokens_fixed(quantized, component):
    session = OnnxPart(part_folder(quantized, component), CPU).session
    (ids,) = session.get_inputs()
    assert ids.shape == ["batch", 512 if component == "text_enc_3" else 77]


def test_large_weights_are_int8_in_the_file(quantized):
    model = onnx.load(str(part_folder(quantized, "text_enc_3") / "model.onnx"), load_external_data=False)
    by_type: dict[int, int] = {}
    for tensor in model.graph.initializer:
        by_type[tensor.data_type] = by_type.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    eight_bits = by_type[onnx.TensorProto.INT8] + by_type.get(onnx.TensorProto.UINT8, 0)
    assert eight_bits > 0.8 * sum(by_type.values())


def test_a_missed_bar_is_exit_code_1_and_the_part_is_written_all_the_same(command, tmp_path, monkeypatch):
    monkeypatch.setattr(make_part, "MIN_COSINE", 1.1)
    monkeypatch.setattr(choose_layers, "LIMITS", (1.0, 0.0))
    done = command("quantize_model", "--output_dir", tmp_path, *FROM[:2])
    assert done.code == 1
    assert "not near enough to PyTorch: text_enc_1" in done.err
    written = record(tmp_path, "text_enc_1")
    assert written["bar_met"] is False
    # the token table knows no static, and what projects the pooled vector has seen too few for it
    assert [one["layers"] for one in written["tried"]] == [
        {"static": 18, "blocks": 1, "weights": 1, "float": 0},
        {"static": 0, "blocks": 0, "weights": 0, "float": 20},
    ]


def test_a_run_that_fails_leaves_the_earlier_part_alone(tmp_path, pipeline, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    folder = part_folder(tmp_path, "text_enc_1")
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_text("earlier")
    monkeypatch.setattr(make_part.export, "write", full)
    with pytest.raises(OSError, match="no space left"):
        make_part.quantize_part("text_enc_1", pipeline, tmp_path, FROM_OPTIONS)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert (folder / "model.onnx").read_text() == "earlier"


def test_a_part_that_was_just_written_is_not_hashed_again(command, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "SMALL", 0)
    assert command("quantize_model", "--output_dir", tmp_path, "-q", *FROM[:2]).code == 0
    monkeypatch.setattr(hashing, "sha256_of", lambda *_: pytest.fail("hashed again"))
    read_record(part_folder(tmp_path, "text_enc_1"), "text_enc_1")


FROM_OPTIONS = {"pretrained_model_name_or_path": str(MODEL)}


def test_a_full_disk_is_one_line_and_leaves_the_earlier_part_alone(command, tmp_path, monkeypatch):
    def fill_the_disk(graph, plan, read, folder):
        (folder / "model.onnx.data").write_bytes(bytes(100))
        raise OSError(errno.ENOSPC, "No space left on device")  # of an open file: it names none

    folder = part_folder(tmp_path, "text_enc_1")
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_text("earlier")
    monkeypatch.setattr(make_part.export, "write", fill_the_disk)
    done = command("quantize_model", "--output_dir", tmp_path, "-q", *FROM[:2])
    assert done.code == 1
    assert "disk is full" in done.err
    assert str(tmp_path) in done.err
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["text_enc_1", folder.name, "model.onnx"]
    assert (folder / "model.onnx").read_text() == "earlier"


# weights streaming by


@pytest.mark.parametrize("component", PARTS)
def test_a_streamed_part_computes_what_the_loaded_one_does(pipeline, component):
    from sd3.networks import load_part

    inputs = pipeline.inputs(component, held_out=True)[0]
    loaded = load_part(component, pipeline.checkpoint, CPU, torch.float32)
    with torch.no_grad():
        expected = loaded(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for found, right in zip(pipeline.run(component, *inputs), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_a_streamed_part_keeps_no_weights(pipeline):
    pipeline.run("text_enc_3", pipeline.inputs("text_enc_3", held_out=True)[0][0])
    for parameter in pipeline.part("text_enc_3").parameters():
        assert parameter.untyped_storage().nbytes() <= 8


@pytest.mark.parametrize(
    ("size", "seen"), [((128, 128), (128, 128)), ((1000, 100), (768, 112)), ((30, 900), (64, 768))], ids=str
)
def test_of_a_run_of_whole_pictures_as_much_is_seen_as_a_tile_shows(pipeline, tmp_path, size, seen):
    Image.new("RGB", size, "grey").save(tmp_path / "1_input.png")
    prompt = pipeline.calibration.pictures[0].prompt
    picture = calibration.SRInput(tmp_path / "1_input.png", prompt, ready=True)
    latent = pipeline.latent(picture)
    assert latent.shape == (1, 16, seen[1] // 8, seen[0] // 8)
    assert pipeline.velocity(picture).shape == latent.shape


def test_t5s_token_table_counts_once_under_its_two_names(pipeline):
    weights = PartWeights("text_enc_3", pipeline.checkpoint)
    table = weights("model.shared.weight")
    assert torch.equal(table, weights("model.encoder.embed_tokens.weight"))
    stored = sum(info.elements for name, info in weights.files.tensors.items() if "embed_tokens" not in name)
    assert weights.parameters() == stored


# the graph


class TwoLayers(torch.nn.Module):
    """A convolution, a table, and two layers that share an input: everything that can be 8 bits."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(200, 48)
        self.first = torch.nn.Linear(48, 40)
        self.second = torch.nn.Linear(48, 40, bias=False)
        self.last = torch.nn.Linear(40, 24)
        self.conv = torch.nn.Conv2d(1, 4, 3)

    def forward(self, ids):
        x = self.table(ids)
        y = self.first(x) * self.second(x)
        return self.last(y[:, 0]), self.conv(y[:, None])


@pytest.fixture
def layers():
    torch.manual_seed(3)
    model = TwoLayers().eval()
    ids = torch.randint(0, 200, (6, 5), generator=torch.Generator().manual_seed(1))
    with torch.device("meta"):
        empty = TwoLayers().eval()
    graph = trace(
        empty, {"ids": ids[:1]}, ("pooled", "map"), {name: {0: "batch"} for name in ("ids", "pooled", "map")}
    )
    return model, graph, ids


def run(model, graph, ids, plan, folder):
    write(graph, plan, lambda name: model.state_dict()[name].clone(), folder)
    return OnnxPart(folder, CPU)(ids)


def test_tracing_finds_layers_by_name_and_which_share_an_input(layers):
    _, graph, _ = layers
    assert graph.groups() == [["first", "second"], ["last"]]
    assert set(graph.others) == {"table", "conv"}


def test_a_float_plan_computes_what_pytorch_does(layers, tmp_path):
    model, graph, ids = layers
    for found, right in zip(run(model, graph, ids, {}, tmp_path), model(ids), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("smoothing", [None, torch.linspace(0.5, 2, 48)], ids=["plain", "smooth"])
def test_static_layers_compute_what_rounding_in_pytorch_says(layers, tmp_path, smoothing):
    model, graph, ids = layers
    activation = Activation(scale=0.03, zero_point=120, smoothing=smoothing)
    plan = {name: LayerPlan("static", activation) for name in ("first", "second")}
    _, found = run(model, graph, ids, plan, tmp_path)

    divisor = 1 if smoothing is None else smoothing
    x = (model.table(ids) / divisor / 0.03).round().clamp(-120, 135) * 0.03
    y = 1
    for layer in (model.first, model.second):
        values, scale = quantize_rows(layer.weight.detach() * divisor)
        y = y * torch.nn.functional.linear(x, values * scale[:, None], layer.bias)
    torch.testing.assert_close(found, model.conv(y[:, None]), rtol=1e-3, atol=1e-3)


def test_sums_of_8_bit_products_keep_to_their_range_on_every_cpu(tmp_path):
    with torch.device("meta"):
        alone = torch.nn.Linear(64, 32, bias=False)
    weight, x = torch.full((32, 64), 0.5), torch.full((3, 64), 2.0)  # the largest numbers of 8 bits
    graph = trace(torch.nn.Sequential(alone), {"x": x[:1]}, ("y",), {"x": {0: "batch"}, "y": {0: "batch"}})
    write(graph, {"0": LayerPlan("static", Activation(2 / 255, 0))}, lambda _: weight, tmp_path)
    torch.testing.assert_close(OnnxPart(tmp_path, CPU)(x), x @ weight.t())


def test_layers_of_two_axes_are_8_bit_products_too(layers, tmp_path):
    model, graph, ids = layers
    plan = dict.fromkeys(("first", "second", "last"), LayerPlan("static", Activation(0.03, 120)))
    run(model, graph, ids, plan, tmp_path)
    options = session_options()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    optimized = onnx.load(options.optimized_model_filepath, load_external_data=False)
    operators = [node.op_type for node in optimized.graph.node]
    assert operators.count("MatMulIntegerToFloat") == 3
    assert "DequantizeLinear" not in operators  # which would multiply a weight out at every call


def test_layers_that_share_an_input_round_it_once(layers, tmp_path):
    model, graph, ids = layers
    plan = {name: LayerPlan("static", Activation(0.03, 120)) for name in ("first", "second")}
    run(model, graph, ids, plan, tmp_path)
    operators = [node.op_type for node in onnx.load(str(tmp_path / "model.onnx")).graph.node]
    assert operators.count("QuantizeLinear") == 1


@pytest.mark.parametrize("mode", ["weights", "blocks"])
def test_8_bit_weights_are_near_the_exact_ones_for_every_kind_of_layer(layers, tmp_path, mode):
    model, graph, ids = layers
    plan = dict.fromkeys(("first", "second", "last"), LayerPlan(mode))
    plan |= dict.fromkeys(("table", "conv"), LayerPlan("weights"))
    for found, right in zip(run(model, graph, ids, plan, tmp_path), model(ids), strict=True):
        assert 0 < relative_error(found, right) < 0.03  # 0 would be fp32


def test_a_layer_whose_width_no_block_divides_is_padded():
    weight = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
    values, scale, block = quantize_blocks(weight)
    assert values.shape == (3, 2, 128)
    assert (values[:, 1, 72:] == 128).all()
    restored = ((values.float() - 128) * scale[..., None]).flatten(1)[:, :200]
    assert (restored - weight).abs().max() <= scale.max() / 2 + 1e-6
    assert block == 128


def test_a_row_of_zeros_stays_zero():
    values, scale = quantize_rows(torch.zeros(2, 4))
    assert (values * scale[:, None] == 0).all()


# calibration and choice


def test_a_layer_input_keeps_the_range_of_everything_and_the_most_extreme_rows():
    seen = LayerInput()
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(4, 50, 16, generator=generator) for _ in range(3)]
    batches[1][2, 7] *= 30
    for batch in batches:
        seen.add(batch)
    everything = torch.cat(batches).reshape(-1, 16)
    assert torch.equal(seen.high, everything.amax(0))
    assert torch.equal(seen.low, everything.amin(0))
    assert len(seen.rows) == choose_layers.ROWS
    assert (seen.rows == batches[1][2, 7]).all(1).any()


def test_smoothing_is_chosen_where_a_channel_is_an_outlier():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 64, generator=generator)
    weight = torch.randn(32, 64, generator=generator)
    plain, outlier = LayerInput(), LayerInput()
    plain.add(x)
    x[:, 5] *= 100
    outlier.add(x)
    calm = choose(plain, {"layer": weight})["layer"]
    wild = choose(outlier, {"layer": weight})["layer"]
    assert wild.activation.smoothing is not None
    # with one scale for all channels, the other 63 would be within a few steps of zero
    step = (outlier.high.max() - outlier.low.min()) / 255
    naive = relative_error((outlier.rows / step).round() * step @ weight.t(), outlier.rows @ weight.t())
    assert wild.errors["static"] < naive
    assert calm.errors["static"] < 0.02


def test_a_layer_that_has_seen_too_few_vectors_to_know_their_range_is_never_static():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, 64, generator=generator)
    few, enough = LayerInput(), LayerInput()
    for _ in range(10):  # of each sample one
        few.add(torch.randn(1, 64, generator=generator))
    enough.add(torch.randn(choose_layers.ROWS, 64, generator=generator))
    assert choose(few, {"layer": weight})["layer"].errors.keys() == {"blocks", "weights"}
    assert choose(enough, {"layer": weight})["layer"].errors.keys() == {"static", "blocks", "weights"}


def test_the_more_exactly_a_layer_is_stored_the_less_it_costs():
    generator = torch.Generator().manual_seed(0)
    seen = LayerInput()
    # tokens of very different size: one scale for all of them leaves few steps to the small ones
    seen.add(torch.randn(300, 256, generator=generator) * torch.randn(300, 1, generator=generator).exp())
    cost = choose(seen, {"layer": torch.randn(32, 256, generator=generator)})["layer"]
    assert 0 < cost.errors["weights"] < cost.errors["blocks"] < cost.errors["static"]


def test_the_cost_of_a_mode_is_what_the_onnx_layer_shows(layers, tmp_path):
    model = layers[0]
    x, weight = model.table(torch.arange(choose_layers.ROWS)).detach(), model.first.weight.detach()
    seen = LayerInput()
    seen.add(x)
    cost = choose(seen, {"first": weight})["first"]
    exact = x @ weight.t()
    with torch.device("meta"):
        alone = torch.nn.Linear(48, 40, bias=False)
    graph = trace(torch.nn.Sequential(alone), {"x": x[:1]}, ("y",), {"x": {0: "batch"}, "y": {0: "batch"}})
    for mode, error in cost.errors.items():
        plan = {"0": LayerPlan(mode, cost.activation)}
        write(graph, plan, lambda _: weight, tmp_path)
        found = OnnxPart(tmp_path, CPU)(x)
        assert relative_error(found.reshape(-1, 40), exact.reshape(-1, 40)) == pytest.approx(error, rel=0.1)


def test_every_layer_is_stored_the_cheapest_way_under_a_limit_that_falls():
    costs = {
        "calm": LayerCost({"static": 0.008, "blocks": 0.006, "weights": 0.005}, Activation(1.0, 0)),
        "wild": LayerCost({"static": 0.4, "blocks": 0.04, "weights": 0.005}, Activation(1.0, 0)),
        "table": LayerCost({"weights": 0.006}),
    }
    modes = [tuple(plan[name].mode for name in costs) for plan in plans(costs)]
    assert modes == [
        ("static", "static", "weights"),
        ("static", "blocks", "weights"),
        ("static", "weights", "weights"),
        ("blocks", "weights", "weights"),
        ("float", "float", "float"),
    ]


def test_fidelity_of_equal_tensors_is_perfect_and_of_one_wrong_token_shows_it():
    exact = torch.randn(4, 7, 16, generator=torch.Generator().manual_seed(0))
    same = compare(exact, exact)
    assert same.cosine == pytest.approx(1)
    assert same.relative_error == 0
    wrong = exact.clone()
    wrong[2, 3] *= -1
    assert compare(wrong, exact).worst_token == pytest.approx(-1)
    assert compare(wrong, exact).cosine > 0.9


def test_psnr_knows_the_range_of_pictures():
    black = torch.full((1, 3, 4, 4), -1.0)
    assert psnr(black, black) == float("inf")
    assert psnr(black + 0.02, black) == pytest.approx(40)
    assert psnr(torch.ones(1, 3, 4, 4), black) == pytest.approx(0)


# calibration data


def test_there_are_two_hundred_varied_prompts_built_in():
    prompts = calibration.read_lines(calibration.BUILT_IN)
    assert len(set(prompts)) >= 200
    lengths = [len(prompt) for prompt in prompts]
    assert min(lengths) < 10
    assert max(lengths) > 80


def test_held_out_prompts_are_never_calibrated_with(tmp_path):
    data = calibration.read_calibration(None, 30)
    assert len(data.prompts) == 30
    assert data.prompts[0] == data.held_out_prompts[0] == ""  # what every run without an extractor uses
    assert not set(data.prompts[1:]) & set(data.held_out_prompts[1:])


def test_a_text_file_gives_its_prompts_and_built_in_ones_where_they_are_few(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("# comment\na red fox\n\na blue whale\n", encoding="utf-8")
    data = calibration.read_calibration(file, 6)
    assert data.prompts[:3] == ["", "a red fox", "a blue whale"]
    assert len(data.prompts) == 6


def test_a_finished_run_gives_its_sr_inputs_with_their_prompts():
    data = calibration.read_calibration(RUN, 3)
    pictures = [*data.pictures, *data.held_out_pictures]
    assert len(pictures) == 5
    assert all(one.file.name.endswith("_input.png") for one in pictures)
    assert {one.prompt for one in pictures} == {"a photo of a cat, sharp fur"}
    assert pictures[0].read().size == (128, 128)


def test_a_folder_of_pictures_gives_sr_inputs_cut_out_of_them():
    data = calibration.read_calibration(PARITY / "input", 2)
    assert data.pictures[0].read().size == (512, 512)


@pytest.mark.parametrize(
    "content", [b"", b"# only a comment\n", b"\xff\xfe\x00"], ids=["empty", "comment", "binary"]
)
def test_a_file_without_prompts_is_refused(tmp_path, content):
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"prompts\.txt"):
        calibration.read_calibration(file, 5)


def test_a_run_that_kept_states_alone_has_prompts_but_no_sr_inputs(command, tmp_path):
    run = (PARITY / "input", "--process_size", 64, "--rec_num", 2, "--prompt", "soft fur", "--save", "states")
    assert command("inference_coz", *run, "-o", tmp_path / "out", "-q").code == 0
    data = calibration.read_calibration(tmp_path / "out", 5, text_only=True)
    assert "soft fur" in (*data.prompts, *data.held_out_prompts)
    with pytest.raises(InputError, match="without --save states"):
        calibration.read_calibration(tmp_path / "out", 5)


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "notes.md").write_text("nothing")
    with pytest.raises(InputError, match="picture"):
        calibration.read_calibration(tmp_path, 5)


def test_the_built_in_data_needs_nothing_but_the_repository():
    assert calibration.read_calibration(None, 5).pictures


# requirements


def pins(name):
    """Return the versions that a requirements file allows, with those of the files that it includes."""
    pinned = {}
    for line in (ROOT / name).read_text().splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            pinned |= pins(line.removeprefix("-r "))
        elif line:
            wanted = Requirement(line)
            pinned[str(wanted).removesuffix(str(wanted.specifier))] = wanted.specifier
    return pinned


def test_the_gpu_requirements_are_the_same_pins_with_the_other_onnxruntime():
    cpu, gpu = pins("requirements.txt"), pins("requirements-gpu.txt")
    assert gpu.keys() - cpu.keys() == {"onnxruntime-gpu"}
    assert cpu.keys() - gpu.keys() == {"onnxruntime"}
    assert not any("[onnxruntime]" in package for package in gpu)  # brings the other one along
    assert all(gpu[name] == cpu[name] for name in gpu.keys() & cpu.keys())


@pytest.mark.parametrize(
    ("component", "pays"), [("text_enc_1", True), ("transformer", True), ("vae_decoder", False)]
)
def test_the_report_says_of_which_parts_int8_does_not_pay(component, pays):
    from types import SimpleNamespace

    from quantize_model import report

    made = SimpleNamespace(
        bytes=1, fp32_bytes=4, seconds=1.0, folder="here", measured="near", plan={}, costs={}
    )
    assert ("does not pay" not in report(component, made)) == pays
