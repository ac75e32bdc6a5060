"""The prompt extractors: whom they ask about what, batches, answers that are no prompts, what is recorded."""

import json
import shutil

import pytest
import torch
from conftest import PARITY
from PIL import Image
from safetensors.torch import load_file, save_file

from errors import InputError, PictureError
from machine.machine import Machine
from prompts import extractors
from prompts.answers import cleaned
from prompts.extractors import DAPE, VLM, DapeExtractor, NullExtractor, VlmExtractor
from prompts.qwen_vl import QwenProcessor
from prompts.vlm_files import check_vlm_folder
from ram.files import check_ram_files
from ram.model import RamTagger
from zoom.protocols import Prompt, StepInput, join_prompt

QWEN = PARITY / "qwen"
ADAPTER = PARITY / "VLM_LoRA" / "checkpoint-10000"
RAM_FILES = (
    PARITY / "RAM" / "ram_swin_tiny.pth",
    PARITY / "DAPE" / "DAPE.pth",
    PARITY / "RAM" / "ram_tag_list.txt",
    PARITY / "RAM" / "ram_tag_list_threshold.txt",
)


def picture(name):
    return Image.open(PARITY / name).convert("RGB")


def step(seen, parent=None):
    """A step whose SR input is `seen`; its crop, which no extractor looks at, shows nothing."""
    return StepInput(crop=Image.new("RGB", (8, 8)), sr_input=seen, parent=parent)


@pytest.fixture
def crop():
    return step(picture("vlm_input/crop.png"))


@pytest.fixture(scope="module")
def expected():
    return json.loads((PARITY / "expected" / "vlm.json").read_text())


def cpu(batch_size=1, efficient_memory=False):
    return Machine.choose("cpu", "fp32", efficient_memory, batch_size)


def dape_extractor(machine=None, files=RAM_FILES):
    return DapeExtractor(check_ram_files(*files), machine or cpu())


def vlm_extractor(machine=None, adapter=ADAPTER, fallback=None, folder=QWEN):
    return VlmExtractor(check_vlm_folder(folder, adapter), machine or cpu(), 32, fallback)


# whom they ask about what


def test_null_says_nothing_and_the_users_words_are_joined_as_published(crop):
    assert [prompt.text for prompt in NullExtractor()([crop, crop])] == ["", ""]
    assert join_prompt("", "sharp") == "sharp"
    assert join_prompt("cat", "") == "cat"
    assert join_prompt("cat", "sharp") == "cat, sharp,"


@pytest.mark.parametrize("two_pictures", [False, True])
def test_the_vlm_is_asked_about_the_input_or_about_its_parent_too(two_pictures, expected):
    parent = picture("vlm_input/parent.png") if two_pictures else None
    [prompt] = vlm_extractor()([step(picture("vlm_input/crop.png"), parent)])
    raw = expected["recursive_multiscale+lora" if two_pictures else "recursive+lora"]["text"]
    assert prompt == Prompt(text=cleaned(raw), extractor="vlm", raw=raw)


@pytest.mark.parametrize("name", ["vlm_input/parent.png", "vlm_input/crop.png", "input/scene.png"])
@pytest.mark.parametrize("two_pictures", [False, True])
def test_the_tagger_looks_at_the_input_and_never_at_its_parent(name, two_pictures):
    tags = json.loads((PARITY / "expected" / "tags.json").read_text())["dape"][name]["tags"]
    parent = Image.new("RGB", (64, 64), "red") if two_pictures else None
    assert list(dape_extractor()([step(picture(name), parent)])) == [Prompt(tags, "dape", raw=tags)]


def test_a_ram_that_is_not_whole_is_refused_when_the_extractor_is_made(tmp_path):
    content = torch.load(RAM_FILES[0], weights_only=True)
    del content["model"]["fc.bias"]
    torch.save(content, tmp_path / "ram.pth")
    machine = cpu()
    with pytest.raises(InputError, match=r"ram\.pth: not a whole RAM checkpoint: fc\.bias is missing"):
        dape_extractor(machine, [tmp_path / "ram.pth", *RAM_FILES[1:]])
    assert machine.residency.loads == {}


def test_a_tagger_whose_numbers_overflow_says_so_instead_of_naming_no_tags(monkeypatch, crop):
    class Overflowing(torch.nn.Module):
        def forward(self, pixels):
            return torch.full((len(pixels), 20), torch.nan)

    monkeypatch.setattr("ram.model.load_ram", lambda *_: Overflowing())
    with pytest.raises(PictureError, match="--mixed_precision fp32"):
        list(dape_extractor()([crop]))


# batches


def five_steps():
    scene = picture("input/scene.png").resize((160, 160))
    turned = [scene.rotate(angle) for angle in (90, 180, 270)]
    return [step(one) for one in (scene, turned[0], picture("vlm_input/crop.png"), *turned[1:])]


@pytest.mark.parametrize("make", [dape_extractor, vlm_extractor])
def test_prompts_do_not_depend_on_the_batch_size(make):
    steps = five_steps()
    one_by_one = make(cpu(batch_size=1))
    alone = [prompt for one in steps for prompt in one_by_one([one])]
    assert list(make(cpu(batch_size=4))(steps)) == alone  # four at once, then one
    assert len({prompt.text for prompt in alone}) > 1


class SmallMemory:
    """A device with room for so many pictures at once; `asked` is how many it was given each time."""

    def __init__(self, room):
        self.room, self.asked = room, []

    def take(self, count):
        self.asked.append(count)
        if count > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def in_front_of_the_vlm(self, monkeypatch):
        generate = extractors.generate

        def limited(model, questions, max_new_tokens):
            self.take(len(questions["input_ids"]))
            return generate(model, questions, max_new_tokens)

        monkeypatch.setattr(extractors, "generate", limited)

    def in_front_of_the_tagger(self, monkeypatch):
        forward = RamTagger.forward

        def limited(tagger, pixels):
            self.take(len(pixels))
            return forward(tagger, pixels)

        monkeypatch.setattr(RamTagger, "forward", limited)


@pytest.mark.parametrize(("room", "asked"), [(1, [4, 2, 1, 1, 1, 1, 1]), (2, [4, 2, 2, 1])])
@pytest.mark.parametrize(
    ("make", "place"),
    [
        (dape_extractor, SmallMemory.in_front_of_the_tagger),
        (vlm_extractor, SmallMemory.in_front_of_the_vlm),
    ],
)
def test_a_batch_that_does_not_fit_the_memory_is_halved_until_it_does_and_prompts_stay_the_same(
    make, place, room, asked, monkeypatch
):
    steps = five_steps()
    plenty = list(make(cpu(batch_size=4))(steps))
    memory = SmallMemory(room)
    place(memory, monkeypatch)
    assert list(make(cpu(batch_size=4))(steps)) == plenty
    assert memory.asked == asked


@pytest.mark.parametrize("second_try_fits", [False, True])
def test_a_question_that_does_not_fit_even_alone_fails_by_name_and_the_next_is_asked(
    second_try_fits, monkeypatch, crop
):
    answers = iter([False, second_try_fits])
    generate = extractors.generate

    def limited(*args):
        if not next(answers):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(*args)

    monkeypatch.setattr(extractors, "generate", limited)
    first, second = vlm_extractor()([crop, crop])
    assert isinstance(first, PictureError)
    assert "prompt.vlm: out of device memory; try --efficient_memory" in str(first)
    assert isinstance(second, Prompt) == second_try_fits


@pytest.mark.parametrize("make", [dape_extractor, vlm_extractor])
def test_without_a_picture_nobody_is_asked(make):
    machine = cpu(batch_size=2)
    assert list(make(machine)([])) == []
    assert machine.residency.loads == {}


def test_prompts_come_as_soon_as_their_batch_is_done(monkeypatch, crop):
    memory = SmallMemory(room=2)
    memory.in_front_of_the_vlm(monkeypatch)
    prompts = vlm_extractor(cpu(batch_size=2))([crop] * 4)
    next(prompts)
    assert memory.asked == [2]
    assert len(list(prompts)) == 3
    assert memory.asked == [2, 2]


# answers that are no prompts


def test_a_runaway_answer_is_recorded_and_the_tags_speak_instead(expected, crop):
    machine = cpu()
    [prompt] = vlm_extractor(machine, adapter=None, fallback=dape_extractor(machine))([crop])
    tags = json.loads((PARITY / "expected" / "tags.json").read_text())["dape"]["vlm_input/crop.png"]["tags"]
    assert prompt == Prompt(
        text=tags,
        extractor="dape",
        raw=expected["recursive"]["text"],
        note="the VLM's answer is only repetition",
    )


def test_a_runaway_answer_without_tagger_leaves_the_prompt_empty(expected, crop):
    [prompt] = vlm_extractor(adapter=None)([crop])
    assert (prompt.text, prompt.extractor) == ("", "null")
    assert prompt.raw == expected["recursive"]["text"]
    assert prompt.note == "the VLM's answer is only repetition"


def test_an_answer_is_cleaned_and_recorded_as_it_came(monkeypatch, crop):
    monkeypatch.setattr(QwenProcessor, "decode", lambda self, ids: ["\x1e\ufffd a cat,\n grey\x00fur"])
    [prompt] = vlm_extractor()([crop])
    assert prompt == Prompt("a cat, grey fur", "vlm", raw="\x1e\ufffd a cat,\n grey\x00fur")


def test_noise_with_one_letter_in_it_leaves_the_prompt_empty(monkeypatch, crop):
    monkeypatch.setattr(QwenProcessor, "decode", lambda self, ids: ["\ufffd\x1ea\ufffd"])
    [prompt] = vlm_extractor()([crop])
    assert (prompt.text, prompt.note) == ("", "the VLM's answer is without a word")


def test_only_the_faulty_answers_of_a_batch_are_replaced(monkeypatch, crop):
    monkeypatch.setattr(QwenProcessor, "decode", lambda self, ids: ["a cat", "", "a dog"])
    prompts = list(vlm_extractor(cpu(batch_size=3))([crop] * 3))
    assert [(prompt.text, prompt.note) for prompt in prompts] == [
        ("a cat", ""),
        ("", "the VLM's answer is empty"),
        ("a dog", ""),
    ]


def test_where_no_answer_is_at_fault_the_tagger_is_not_even_loaded(crop):
    machine = cpu()
    [prompt] = vlm_extractor(machine, fallback=dape_extractor(machine))([crop])
    assert prompt.extractor == "vlm"
    assert machine.residency.loads == {VLM: 1}


def test_under_efficient_memory_vlm_and_tagger_take_turns(crop):
    machine = cpu(efficient_memory=True)
    extractor = vlm_extractor(machine, adapter=None, fallback=dape_extractor(machine))
    prompts = list(extractor([crop] * 2))
    assert [prompt.extractor for prompt in prompts] == ["dape", "dape"]
    assert machine.residency.loads == {"prompt.vlm": 2, "prompt.dape": 2}


# what a run records


def test_extractors_describe_themselves_in_json_wherever_their_files_lie(tmp_path):
    first = vlm_extractor(fallback=dape_extractor()).describe()
    assert json.loads(json.dumps(first)) == first
    moved = [type(PARITY)(shutil.copy(path, tmp_path)) for path in RAM_FILES]
    assert dape_extractor(files=moved).describe() == first["fallback"]
    qwen_copy = shutil.copytree(QWEN, tmp_path / "qwen")
    assert vlm_extractor(folder=qwen_copy).describe() == vlm_extractor().describe()


def test_other_weights_in_a_folder_of_the_same_name_and_size_are_another_extractor(tmp_path):
    other = shutil.copytree(QWEN, tmp_path / "qwen")
    weights = other / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"].add_(1)
    save_file(tensors, weights, {"format": "pt"})
    assert weights.stat().st_size == (QWEN / "model.safetensors").stat().st_size
    ours, others = vlm_extractor().describe(), vlm_extractor(folder=other).describe()
    assert ours["model"] == others["model"] == "qwen"
    assert ours["files"]["model.safetensors"] != others["files"]["model.safetensors"]
    assert {name for name in ours if ours[name] != others[name]} == {"files"}


@pytest.mark.parametrize(
    "name", ["generation_config.json", "preprocessor_config.json", "chat_template.jinja"]
)
def test_what_else_decides_the_answers_is_recorded_with_the_weights(name, tmp_path):
    other = shutil.copytree(QWEN, tmp_path / "qwen")
    with (other / name).open("a") as file:
        file.write("\n")
    assert vlm_extractor(folder=other).describe() != vlm_extractor().describe()


def test_another_adapter_is_another_extractor(tmp_path):
    other = shutil.copytree(ADAPTER, tmp_path / "adapter")
    tensors = load_file(other / "adapter_model.safetensors")
    next(iter(tensors.values())).add_(1)
    save_file(tensors, other / "adapter_model.safetensors", {"format": "pt"})
    assert vlm_extractor(adapter=other).describe()["adapter"] != vlm_extractor().describe()["adapter"]


def test_an_adapter_of_another_scale_is_another_extractor(tmp_path):
    other = shutil.copytree(ADAPTER, tmp_path / "adapter")
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 1}))
    assert vlm_extractor(adapter=other).describe()["adapter"] != vlm_extractor().describe()["adapter"]


def test_loading_and_forward_passes_have_their_stages(crop):
    machine = cpu()
    list(vlm_extractor(machine, adapter=None, fallback=dape_extractor(machine))([crop]))
    parts = ("load", "prepare", "forward")
    assert set(machine.times) == {f"{who}.{part}" for who in (VLM, DAPE) for part in parts}
    assert (VLM, DAPE) == ("prompt.vlm", "prompt.dape")
