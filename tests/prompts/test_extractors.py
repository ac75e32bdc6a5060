"""The prompt extractors: the published questions and answers, batches, faults, and what wrong folders say."""

import json
import logging
import shutil
from contextlib import contextmanager

import pytest
import torch
from conftest import DATA, PARITY
from PIL import Image
from safetensors.torch import load_file, save_file

from checkpoints.headers import safetensors_info
from errors import InputError, PictureError
from lora.vlm_adapter import check_vlm_adapter, merge_vlm_adapter, todays_name
from machine.residency import Residency
from machine.stage_times import StageTimes
from prompts.extractors import DapeExtractor, NullExtractor, Prompt, VlmExtractor, join_prompt
from prompts.qwen_vl import (
    QwenProcessor,
    answer_fault,
    check_vlm_folder,
    generate,
    linear_layers,
    load_vlm,
    one_line,
)

QWEN = PARITY / "qwen"
ADAPTER = PARITY / "VLM_LoRA" / "checkpoint-10000"
RAM_FILES = (
    PARITY / "RAM" / "ram_swin_tiny.pth",
    PARITY / "DAPE" / "DAPE.pth",
    PARITY / "RAM" / "ram_tag_list.txt",
    PARITY / "RAM" / "ram_tag_list_threshold.txt",
)
CPU = torch.device("cpu")
CASES = ["recursive", "recursive+lora", "recursive_multiscale", "recursive_multiscale+lora"]


def picture(name):
    return Image.open(PARITY / name).convert("RGB")


@pytest.fixture(scope="module")
def expected():
    return json.loads((PARITY / "expected" / "vlm.json").read_text())


@pytest.fixture(scope="module")
def processor():
    return QwenProcessor(QWEN)


@pytest.fixture(scope="module")
def plain():
    return load_vlm(check_vlm_folder(QWEN, None), CPU, torch.float32)


@pytest.fixture(scope="module")
def tuned():
    return load_vlm(check_vlm_folder(QWEN, ADAPTER), CPU, torch.float32)


def dape_extractor(residency=None, batch_size=1, times=None):
    times = StageTimes() if times is None else times
    residency = residency or Residency()
    return DapeExtractor(*RAM_FILES, residency, CPU, torch.float32, batch_size, times)


def vlm_extractor(adapter=ADAPTER, residency=None, batch_size=1, times=None, fallback=None, folder=QWEN):
    times = StageTimes() if times is None else times
    residency = residency or Residency()
    return VlmExtractor(folder, adapter, residency, CPU, torch.float32, 32, batch_size, times, fallback)


@contextmanager
def changed_weights(path):
    """The tensors of a safetensors file by name; what the body changes is written back."""
    tensors = load_file(path)
    yield tensors
    save_file(tensors, path, {"format": "pt"})


@contextmanager
def changed_json(path):
    content = json.loads(path.read_text())
    yield content
    path.write_text(json.dumps(content))


@pytest.fixture
def adapter_copy(tmp_path):
    return shutil.copytree(ADAPTER, tmp_path / "adapter")


@pytest.fixture
def qwen_copy(tmp_path):
    return shutil.copytree(QWEN, tmp_path / "qwen")


class CountingPictures(list):
    """Pictures that count how often each is read; a None among them cannot be read."""

    def __init__(self, pictures):
        super().__init__(pictures)
        self.reads = [0] * len(pictures)

    def __getitem__(self, index):
        self.reads[index] += 1
        if super().__getitem__(index) is None:
            raise PictureError("damaged")
        return super().__getitem__(index)


# Qwen2.5-VL: the published numbers


@pytest.mark.parametrize("case", CASES)
def test_question_and_answer_are_those_of_the_published_code(case, expected, processor, plain, tuned):
    pictures = [picture("vlm_input/parent.png"), picture("vlm_input/crop.png")]
    row = pictures if "multiscale" in case else pictures[1:]
    wanted = expected[case]
    questions = processor([row])
    ids = generate(tuned if "lora" in case else plain, questions, max_new_tokens=32)
    assert processor.chat(len(row)) == wanted["chat"]
    assert questions["input_ids"].tolist() == [wanted["input_ids"]]
    assert questions["image_grid_thw"].tolist() == wanted["image_grid_thw"]
    assert ids.tolist() == [wanted["new_ids"]]
    assert processor.decode(ids) == [wanted["text"]]


@pytest.mark.parametrize("two_pictures", [False, True])
def test_the_extractor_asks_about_the_input_or_about_its_parent_too(two_pictures, expected):
    parents = [picture("vlm_input/parent.png")] if two_pictures else None
    [prompt] = vlm_extractor()(parents, [picture("vlm_input/crop.png")])
    raw = expected["recursive_multiscale+lora" if two_pictures else "recursive+lora"]["text"]
    assert prompt == Prompt(text=one_line(raw), extractor="vlm", raw=raw)


def test_a_512_picture_is_seen_as_504_pixels_in_patches_of_14(processor):
    questions = processor([[Image.new("RGB", (512, 512))]])
    assert questions["image_grid_thw"].tolist() == [[1, 36, 36]]
    assert questions["pixel_values"].shape == (36 * 36, 3 * 2 * 14 * 14)


# Qwen2.5-VL: batches


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_four_questions_at_once_get_the_answers_they_get_alone(penalty, processor, tuned, monkeypatch):
    """Of different lengths, so that three of them are padded."""
    monkeypatch.setattr(tuned.generation_config, "repetition_penalty", penalty)
    scene, crop = picture("input/scene.png"), picture("vlm_input/crop.png")
    rows = [[crop], [crop.resize((224, 168)), scene], [scene.resize((84, 84))], [scene, crop]]
    together = processor.decode(generate(tuned, processor(rows), 32))
    alone = [processor.decode(generate(tuned, processor([row]), 32))[0] for row in rows]
    assert together == alone
    assert len(set(alone)) == 4


def test_padding_adds_no_token_that_a_repetition_penalty_would_see(processor):
    small, large = ([Image.new("RGB", (side, side))] for side in (56, 112))
    questions = processor([small, large])
    assert set(questions["input_ids"][0].tolist()) == set(processor([small])["input_ids"][0].tolist())
    assert questions["attention_mask"].sum(1).tolist() == [
        len(processor([r])["input_ids"][0]) for r in (small, large)
    ]
    assert questions["attention_mask"][0, 0] == 0


@pytest.mark.parametrize("make", [dape_extractor, vlm_extractor])
def test_prompts_do_not_depend_on_the_batch_size(make):
    scene = picture("input/scene.png").resize((160, 160))
    pictures = [scene, scene.rotate(90), picture("vlm_input/crop.png"), scene.rotate(180), scene.rotate(270)]
    one_by_one = make(batch_size=1)
    alone = [prompt for one in pictures for prompt in one_by_one(None, [one])]
    assert list(make(batch_size=4)(None, pictures)) == alone  # four at once, then one
    assert len({prompt.text for prompt in alone}) > 1


@pytest.mark.parametrize("make", [dape_extractor, vlm_extractor])
def test_a_picture_that_cannot_be_read_is_an_error_in_its_place_and_each_is_read_once(make):
    crop = picture("vlm_input/crop.png")
    inputs, parents = CountingPictures([crop, None, crop, crop]), CountingPictures([crop] * 4)
    prompts = list(make(batch_size=2)(parents, inputs))
    assert [isinstance(prompt, PictureError) for prompt in prompts] == [False, True, False, False]
    assert inputs.reads == [1, 1, 1, 1]
    assert max(parents.reads) <= 1


def test_a_tagger_whose_numbers_overflow_says_so_instead_of_naming_no_tags(monkeypatch):
    class Overflowing(torch.nn.Module):
        def forward(self, pixels):
            return torch.full((len(pixels), 20), torch.nan)

    monkeypatch.setattr("ram.model.load_ram", lambda *_: Overflowing())
    with pytest.raises(PictureError, match="--mixed_precision fp32"):
        list(dape_extractor()(None, [picture("vlm_input/crop.png")]))


def test_a_batch_without_a_readable_picture_asks_nobody():
    residency = Residency()
    list(vlm_extractor(residency=residency)(None, CountingPictures([None])))
    assert residency.loads == {}


def test_prompts_come_as_soon_as_their_batch_is_done():
    inputs = CountingPictures([picture("vlm_input/crop.png")] * 4)
    next(vlm_extractor(batch_size=2)(None, inputs))
    assert inputs.reads == [1, 1, 0, 0]


# Qwen2.5-VL: decoding


def test_a_folder_that_samples_next_to_greedily_is_decoded_greedily_with_its_penalty_and_in_silence(
    qwen_copy, processor, caplog, capfd
):
    with changed_json(qwen_copy / "generation_config.json") as config:  # as Qwen2.5-VL-3B-Instruct has it
        config.update(do_sample=True, temperature=1e-6, repetition_penalty=1.05)
    from transformers import GenerationConfig

    model = load_vlm(check_vlm_folder(qwen_copy, ADAPTER), CPU, torch.float32)
    questions = processor([[picture("vlm_input/crop.png")]])
    with caplog.at_level(logging.INFO):
        greedy = generate(model, questions, 32)
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")

    model.generation_config = GenerationConfig.from_pretrained(qwen_copy)
    torch.manual_seed(0)
    sampled = generate(model, questions, 32)
    model.generation_config.update(do_sample=False, temperature=None, repetition_penalty=1.0)
    unpenalised = generate(model, questions, 32)
    assert greedy.tolist() == sampled.tolist() != unpenalised.tolist()


# answers that are no prompts


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("fur, whiskers, a grey cat", ""),
        ("brown, soft, fur, fur", ""),
        ("The image shows a cat. The cat is grey.", ""),
        ("cat", ""),
        ("", "empty"),
        ("  \n", "empty"),
        ("!!!!!!!!!!!!", "empty"),
        ("YYYYYYYYYYYY", "only repetition"),
        ("(YYYYYYYYYYY", "only repetition"),
        ("cat, dog, cat, dog, cat, dog, cat, d", "only repetition"),
        (
            "the fur of the cat, the fur of the cat, the fur of the cat, the fur of the cat,",
            "only repetition",
        ),
        ("毛皮毛皮毛皮毛皮毛皮", "only repetition"),
    ],
)
def test_an_answer_is_judged(answer, fault):
    assert answer_fault(answer) == fault


def test_an_answer_becomes_one_line():
    assert one_line(" a cat,\n  grey fur\t\n") == "a cat, grey fur"


def test_a_runaway_answer_is_recorded_and_the_tags_speak_instead(expected):
    residency = Residency()
    extractor = vlm_extractor(None, residency, fallback=dape_extractor(residency))
    [prompt] = extractor(None, [picture("vlm_input/crop.png")])
    tags = json.loads((PARITY / "expected" / "tags.json").read_text())["dape"]["vlm_input/crop.png"]["tags"]
    assert prompt == Prompt(
        text=tags,
        extractor="dape",
        raw=expected["recursive"]["text"],
        note="the VLM's answer is only repetition",
    )


def test_a_runaway_answer_without_tagger_leaves_the_prompt_empty(expected):
    [prompt] = vlm_extractor(adapter=None)(None, [picture("vlm_input/crop.png")])
    assert (prompt.text, prompt.extractor) == ("", "null")
    assert prompt.raw == expected["recursive"]["text"]
    assert prompt.note == "the VLM's answer is only repetition"


def test_only_the_faulty_answers_of_a_batch_are_replaced(monkeypatch):
    monkeypatch.setattr(QwenProcessor, "decode", lambda self, ids: ["a cat", "", "a dog"])
    prompts = list(vlm_extractor(batch_size=3)(None, [picture("vlm_input/crop.png")] * 3))
    assert [(prompt.text, prompt.note) for prompt in prompts] == [
        ("a cat", ""),
        ("", "the VLM's answer is empty"),
        ("a dog", ""),
    ]


def test_under_efficient_memory_vlm_and_tagger_take_turns():
    residency = Residency(efficient_memory=True)
    extractor = vlm_extractor(None, residency, fallback=dape_extractor(residency))
    prompts = list(extractor(None, [picture("vlm_input/crop.png")] * 2))
    assert [prompt.extractor for prompt in prompts] == ["dape", "dape"]
    assert residency.loads == {"prompt.vlm": 2, "prompt.dape": 2}


# what a run records


def test_extractors_describe_themselves_in_json_wherever_their_files_lie(tmp_path, qwen_copy):
    first = vlm_extractor(fallback=dape_extractor()).describe()
    assert json.loads(json.dumps(first)) == first
    moved = [shutil.copy(path, tmp_path) for path in RAM_FILES]
    times = StageTimes()
    again = DapeExtractor(*map(type(PARITY), moved), Residency(), CPU, torch.float32, 1, times)
    assert again.describe() == first["fallback"]
    assert vlm_extractor(folder=qwen_copy).describe() == vlm_extractor().describe()


def test_another_adapter_is_another_extractor(adapter_copy):
    with changed_weights(adapter_copy / "adapter_model.safetensors") as tensors:
        next(iter(tensors.values())).add_(1)
    assert vlm_extractor(adapter_copy).describe()["adapter"] != vlm_extractor().describe()["adapter"]


def test_loading_and_forward_passes_have_their_stages():
    times = StageTimes()
    residency = Residency(times=times)
    fallback = dape_extractor(residency, times=times)
    list(
        vlm_extractor(None, residency, times=times, fallback=fallback)(None, [picture("vlm_input/crop.png")])
    )
    parts = ("load", "prepare", "forward")
    assert set(times) == {f"prompt.{who}.{part}" for who in ("vlm", "dape") for part in parts}


def test_null_says_nothing_and_the_users_words_are_joined_as_published():
    assert [prompt.text for prompt in NullExtractor()(None, [None, None])] == ["", ""]
    assert join_prompt("", "sharp") == "sharp"
    assert join_prompt("cat", "") == "cat"
    assert join_prompt("cat", "sharp") == "cat, sharp,"


# the adapter


def test_the_merged_weights_are_those_that_peft_merges_and_nothing_stays_wrapped(tuned):
    from peft import PeftModel
    from transformers import Qwen2_5_VLForConditionalGeneration

    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(QWEN)
    with pytest.warns(UserWarning, match="missing adapter keys"):  # the false alarm
        wrapped = PeftModel.from_pretrained(base, ADAPTER)
    merged = wrapped.merge_and_unload().state_dict()
    ours = tuned.state_dict()
    assert ours.keys() == merged.keys()
    assert all(torch.allclose(ours[name], merged[name], atol=1e-6) for name in ours)


def test_loading_with_the_adapter_says_nothing(caplog, capfd, recwarn):
    with caplog.at_level(logging.INFO):
        load_vlm(check_vlm_folder(QWEN, ADAPTER), CPU, torch.float32)
    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


def test_the_adapter_is_added_in_fp32_before_the_weights_are_cast(tuned):
    halved = load_vlm(check_vlm_folder(QWEN, ADAPTER), CPU, torch.bfloat16).state_dict()
    for name, tensor in tuned.state_dict().items():
        assert torch.equal(halved[name], tensor.bfloat16()), name


@pytest.mark.parametrize("adapter", [None, ADAPTER])
def test_rotary_frequencies_stay_fp32_whatever_the_weights_are_cast_to(adapter, plain):
    halved = load_vlm(check_vlm_folder(QWEN, adapter), CPU, torch.bfloat16)
    buffers = dict(plain.named_buffers())
    assert buffers
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in halved.named_buffers())


def test_an_adapter_of_todays_module_tree_merges_to_the_same(adapter_copy, tuned):
    path = adapter_copy / "adapter_model.safetensors"
    renamed = {
        key.replace(".model.layers.", ".model.language_model.layers."): t
        for key, t in load_file(path).items()
    }
    save_file(renamed, path)
    with changed_json(adapter_copy / "adapter_config.json") as config:
        config["target_modules"] = r"^model\.language_model.*\.([qkvo]_proj|gate_proj|up_proj|down_proj)$"
    model = load_vlm(check_vlm_folder(QWEN, adapter_copy), CPU, torch.float32)
    assert all(torch.equal(tensor, tuned.state_dict()[name]) for name, tensor in model.state_dict().items())


@pytest.fixture(scope="module")
def full_size():
    """Qwen2.5-VL-3B-Instruct in bfloat16 on the meta device: every module, no memory."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

    config = AutoConfig.from_pretrained(DATA / "qwen2_5_vl_3b")
    with init_empty_weights():
        return Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)


def full_size_linears(model):
    modules = model.model.named_modules(prefix="model")
    return {name: tuple(m.weight.shape) for name, m in modules if isinstance(m, torch.nn.Linear)}


def save_hollow(path, shapes):
    """A safetensors file whose zeros take no room on the disk."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 4 * torch.Size(shape).numel()
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)


def test_every_weight_of_the_released_adapter_has_its_place_in_qwen_3b(full_size, adapter_copy):
    linears = full_size_linears(full_size)
    seven = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    shapes = {}
    for layer in range(36):
        for name in seven:
            at = f"layers.{layer}.{'mlp' if name[:2] in ('ga', 'up', 'do') else 'self_attn'}.{name}"
            outputs, inputs = linears[f"model.language_model.{at}"]
            shapes[f"base_model.model.model.{at}.lora_A.weight"] = (8, inputs)
            shapes[f"base_model.model.model.{at}.lora_B.weight"] = (outputs, 8)
    save_hollow(adapter_copy / "adapter_model.safetensors", shapes)
    adapter = check_vlm_adapter(adapter_copy, linears)
    assert len(adapter.pairs) == 36 * 7
    assert all(name.startswith("model.language_model.layers.") for name in adapter.pairs)
    assert adapter.scale == 4.0

    del shapes["base_model.model.model.layers.35.mlp.down_proj.lora_A.weight"]
    save_hollow(adapter_copy / "adapter_model.safetensors", shapes)
    with pytest.raises(InputError, match=r"35\.mlp\.down_proj"):
        check_vlm_adapter(adapter_copy, linears)


def test_a_merged_layer_of_qwen_3b_has_the_wanted_dtype(full_size, adapter_copy):
    name = "model.layers.0.self_attn.k_proj"
    key = f"base_model.model.{name}"
    path = adapter_copy / "adapter_model.safetensors"
    save_file({f"{key}.lora_A.weight": torch.ones(8, 2048), f"{key}.lora_B.weight": torch.ones(256, 8)}, path)
    with changed_json(adapter_copy / "adapter_config.json") as config:
        config["target_modules"] = r"model\.layers\.0\.self_attn\.k_proj"
    merge_vlm_adapter(
        full_size, check_vlm_adapter(adapter_copy, full_size_linears(full_size)), torch.bfloat16
    )
    weight = full_size.get_submodule(todays_name(name)).weight
    assert (weight.shape, weight.dtype) == ((256, 2048), torch.bfloat16)


def test_the_linear_layers_are_told_from_the_files_header(plain):
    found = linear_layers(safetensors_info(QWEN / "model.safetensors"))
    modules = plain.model.named_modules(prefix="model")
    assert found == {n: tuple(m.weight.shape) for n, m in modules if isinstance(m, torch.nn.Linear)}


# wrong folders


def refused(folder, adapter=None):
    with pytest.raises(InputError) as error:
        check_vlm_folder(folder, adapter)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_a_folder_that_is_not_there_is_named(tmp_path):
    assert str(tmp_path / "gone") in refused(tmp_path / "gone")


def test_qwen_3b_is_fetched_at_the_commit_it_was_tried_with_and_that_is_recorded(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(name, revision, **options):
        asked.update(options, name=name, revision=revision)
        return shutil.copytree(QWEN, tmp_path / "snapshots" / revision)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    files = check_vlm_folder("Qwen/Qwen2.5-VL-3B-Instruct", None, download=False)
    commit = "66285546d2b821cf421d4f5eb2576359d3770cd3"
    assert (asked["revision"], asked["local_files_only"]) == (commit, True)
    assert (files.name, files.revision) == ("Qwen/Qwen2.5-VL-3B-Instruct", commit)


def test_a_hub_name_that_cannot_be_fetched_says_how_to_go_on():
    assert "nobody/nothing: no such folder" in refused("nobody/nothing")


def test_another_kind_of_model_is_refused(qwen_copy):
    with changed_json(qwen_copy / "config.json") as config:
        config["model_type"] = "llama"
    assert "a llama model, but --vlm_path needs a Qwen2.5-VL" in refused(qwen_copy)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_file_that_is_missing_from_the_folder_is_named(name, qwen_copy):
    (qwen_copy / name).unlink()
    assert name in refused(qwen_copy)


def test_a_half_downloaded_file_is_named(qwen_copy):
    path = qwen_copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert str(path) in refused(qwen_copy)


def test_a_shard_that_is_missing_is_named(qwen_copy):
    (qwen_copy / "model.safetensors").rename(qwen_copy / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (qwen_copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "model-00002-of-00002.safetensors" in refused(qwen_copy)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"), "1 tensors missing"),
        (lambda tensors: tensors.update({"model.extra": torch.zeros(2)}), "1 tensors unexpected"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.zeros(9)}), "1 tensors of another shape"),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_named_when_loaded(change, problem, qwen_copy):
    with changed_weights(qwen_copy / "model.safetensors") as tensors:
        change(tensors)
    with pytest.raises(InputError, match=problem):
        load_vlm(check_vlm_folder(qwen_copy, None), CPU, torch.float32)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_folder_without_one_of_its_files_is_refused(name, adapter_copy):
    (adapter_copy / name).unlink()
    assert name in refused(QWEN, adapter_copy)


def test_a_language_model_layer_that_the_adapter_lacks_is_named(adapter_copy):
    with changed_weights(adapter_copy / "adapter_model.safetensors") as tensors:
        for half in "AB":
            del tensors[f"base_model.model.model.layers.1.self_attn.v_proj.lora_{half}.weight"]
    assert "no weights for model.language_model.layers.1.self_attn.v_proj" in refused(QWEN, adapter_copy)


def test_half_a_pair_is_refused(adapter_copy):
    with changed_weights(adapter_copy / "adapter_model.safetensors") as tensors:
        del tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"]
    assert "only one half of its pair" in refused(QWEN, adapter_copy)


def test_an_adapter_for_a_wider_base_is_refused(adapter_copy):
    with changed_weights(adapter_copy / "adapter_model.safetensors") as tensors:
        for key in tensors:
            tensors[key] = torch.cat([tensors[key]] * 2, dim=1 if "lora_A" in key else 0)
    assert "made for another base model" in refused(QWEN, adapter_copy)


def test_an_adapter_for_a_deeper_base_is_refused(adapter_copy):
    with changed_weights(adapter_copy / "adapter_model.safetensors") as tensors:
        tensors |= {key.replace("layers.1", "layers.2"): 1 * tensor for key, tensor in tensors.items()}
    assert "layers.2" in refused(QWEN, adapter_copy)


@pytest.mark.parametrize(
    "setting", [{"use_dora": True}, {"bias": "all"}, {"peft_type": "IA3"}, {"rank_pattern": {"q_proj": 4}}]
)
def test_an_adapter_that_is_more_than_plain_lora_is_refused(setting, adapter_copy):
    with changed_json(adapter_copy / "adapter_config.json") as config:
        config.update(setting)
    assert "not plain LoRA" in refused(QWEN, adapter_copy)
