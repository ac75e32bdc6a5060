"""Picture-text models other than Qwen2.5-VL: tiny ones with random weights, in the published formats."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import PARITY
from PIL import Image
from safetensors.torch import load_file, save_file
from test_command_with_checkpoints import SMALL, prompts
from tiny_vlms import TINY

from errors import InputError
from machine.machine import Machine
from prompts.extractors import VLM, VlmExtractor
from prompts.other_processor import OtherProcessor
from prompts.questions import QUESTION_ONE, QUESTION_TWO
from prompts.qwen_vl import QwenProcessor
from prompts.vlm_files import check_vlm_folder
from prompts.vlm_loading import check_vlm, generate, load_vlm, processor_of
from zoom.protocols import StepInput

CPU = torch.device("cpu")
KINDS = list(TINY)
SEEN = ("input/scene", "vlm_input/crop")


def picture(name):
    return Image.open(PARITY / name).convert("RGB")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Makes the folder of each kind once."""
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = TINY[kind](tmp_path_factory.mktemp("vlms") / kind)
        return made[kind]

    return folder


@pytest.fixture
def copy(folders, tmp_path):
    """A folder of one's own, to change something in it."""
    return lambda kind: shutil.copytree(folders(kind), tmp_path / kind)


def refused(folder, adapter=None):
    """What is said of a folder by the time that nothing of it is loaded."""
    with pytest.raises(InputError) as error:
        VlmExtractor(check_vlm_folder(folder, adapter), Machine.choose("cpu", "fp32"), 8, None)
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 450
    return message


def change(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


# questions and answers


@pytest.mark.parametrize("kind", KINDS)
def test_four_questions_at_once_get_the_answers_they_get_alone(kind, folders):
    """Of different lengths and numbers of pictures, so that three of them are padded."""
    files = check_vlm(check_vlm_folder(folders(kind), None))
    processor, model = processor_of(files), load_vlm(files, CPU, torch.float32)
    assert model.generation_config.repetition_penalty == 1.3
    scene, crop = picture("input/scene.png"), picture("vlm_input/crop.png")
    rows = [[crop], [crop.resize((224, 168)), scene], [scene.resize((84, 84))], [scene, crop]]
    together = processor.decode(generate(model, processor(rows), 16))
    alone = [processor.decode(generate(model, processor([row]), 16))[0] for row in rows]
    assert together == alone
    assert len(set(alone)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_question_is_the_published_one_with_the_models_mark_for_each_picture(kind, folders):
    processor = processor_of(check_vlm_folder(folders(kind), None))
    mark = {
        "qwen3_vl": "<|image_pad|>",
        "smolvlm": "<image>",
        "internvl": "<IMG_CONTEXT>",
        "gemma3": "<start_of_image>",
        "llava": "<image>",
    }[kind]
    for pictures, question in ((1, QUESTION_ONE), (2, QUESTION_TWO)):
        assert question in processor.chat(pictures)
        assert processor.chat(pictures).count(mark) == pictures


@pytest.mark.parametrize("kind", ["gemma3", "llava"])
def test_what_the_model_gets_is_what_transformers_own_way_gives_it(kind, folders):
    """Of the kinds whose own way needs no torchvision."""
    from transformers import AutoProcessor

    pictures = [picture("input/scene.png"), picture("vlm_input/crop.png")]
    own = AutoProcessor.from_pretrained(folders(kind), use_fast=False)
    asked = {"type": "text", "text": QUESTION_TWO}
    shown = [{"type": "image", "image": one} for one in pictures]
    messages = [{"role": "system", "content": [asked]}, {"role": "user", "content": shown}]
    if kind == "gemma3":  # whose template here has no system message
        messages = [{"role": "user", "content": [*shown, asked]}]
    theirs = own.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ours = processor_of(check_vlm_folder(folders(kind), None))([pictures])
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize("writes_it", [True, False])
def test_the_token_that_begins_a_text_is_there_once_whether_the_template_writes_it_or_not(writes_it, copy):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    folder = copy("llava")
    tokenizer = AutoTokenizer.from_pretrained(folder, bos_token="<|im_start|>")
    begin = tokenizer.bos_token, tokenizer.bos_token_id
    adding = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    tokenizer.backend_tokenizer.post_processor = adding  # as Llama's tokenizer has it
    tokenizer.chat_template = ("{{ bos_token }}" if writes_it else "") + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    [ids] = processor_of(check_vlm_folder(folder, None))([[picture("input/scene.png")]])["input_ids"].tolist()
    assert [ids.count(begin[1]), ids[0]] == [1, begin[1]]


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_what_qwen_gets_is_what_transformers_own_processor_gives_it(kind, folders):
    folder = folders(kind) if kind in TINY else PARITY / "qwen"
    rows = [[picture("input/scene.png"), picture("vlm_input/crop.png")], [picture("vlm_input/crop.png")]]
    files = check_vlm_folder(folder, None)
    ours, theirs = QwenProcessor(folder)(rows), OtherProcessor(files)(rows)
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def smolvlms_own_processor(folder):
    """SmolVLM's processor, whose module does not import here: as its source has it, but for the films."""
    from transformers import AutoImageProcessor, AutoTokenizer

    source = Path(find_spec("transformers").origin).parent / "models" / "smolvlm" / "processing_smolvlm.py"
    text = (
        source.read_text().replace("from ...", "from transformers.").replace("if not num2words", "if False")
    )
    module = ModuleType("smolvlm_without_films")
    exec(text.replace("if is_vision_available()", "if False"), module.__dict__)

    class Own(module.SmolVLMProcessor):
        def check_argument_for_proper_class(self, argument_name, argument):
            return type(argument)

    settings = json.loads((folder / "processor_config.json").read_text())
    parts = AutoImageProcessor.from_pretrained(folder, use_fast=False), AutoTokenizer.from_pretrained(folder)
    return Own(*parts, None, image_seq_len=settings["image_seq_len"])


def test_what_smolvlm_gets_is_what_its_own_processor_gives_it(folders):
    rows = [[picture("input/scene.png"), picture("vlm_input/crop.png")]]
    processor = processor_of(check_vlm_folder(folders("smolvlm"), None))
    own = smolvlms_own_processor(folders("smolvlm"))
    ours, theirs = processor(rows), own(images=rows, text=[processor.chat(2)], return_tensors="pt")
    assert set(ours) == set(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


def test_smolvlm_sees_the_parts_of_a_picture_and_then_the_whole(folders):
    processor = processor_of(check_vlm_folder(folders("smolvlm"), None))
    [ids] = processor([[picture("input/scene.png")]])["input_ids"].tolist()
    seen = processor.tokenizer.decode(ids)
    part = "<fake_token_around_image>{}" + "<image>" * 4
    places = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    assert [seen.count(part.format(place)) for place in (*places, "<global-img>")] == [1] * 5


@pytest.mark.parametrize("kind", KINDS)
def test_it_extracts_prompts_and_records_its_files(kind, folders):
    extractor = VlmExtractor(check_vlm_folder(folders(kind), None), Machine.choose("cpu", "fp32"), 8, None)
    scene, crop = picture("input/scene.png"), picture("vlm_input/crop.png")
    seen = (crop, scene, Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64)))
    assert len({next(extractor([StepInput(crop, one)])).raw for one in seen}) > 1
    described = extractor.describe()
    assert (described["model"], described["extractor"]) == (kind, "vlm")
    assert "preprocessor_config.json" in described["files"]


def test_a_chain_is_steered_by_another_vlm(command, tmp_path, folders):
    arguments = (*SMALL, "--vlm_path", folders("internvl"), "--max_new_tokens", 8, "-o", tmp_path / "out")
    done = command("inference_coz", *arguments)
    assert done.code == 0
    steps = prompts(tmp_path / "out") + prompts(tmp_path / "out", "turned")
    assert all(step["raw"] for step in steps)
    assert "traceback" not in done.err.lower()


@pytest.mark.parametrize("kind", ["smolvlm", "internvl"])
def test_a_chat_template_in_a_file_of_the_processors_is_found(kind, copy, folders):
    folder = copy(kind)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    chats = [processor_of(check_vlm_folder(one, None)).chat(2) for one in (folder, folders(kind))]
    assert chats[0] == chats[1]


# every weight comes from the file


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_that_is_missing_or_of_no_use_is_named_before_anything_is_loaded(kind, copy):
    folder = copy(kind)
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if name.endswith("1.mlp.up_proj.weight"))
    left = {name: tensor for name, tensor in tensors.items() if name != gone}
    save_file(left, folder / "model.safetensors", {"format": "pt"})
    assert "layers.1.mlp.up_proj.weight is missing" in refused(folder)
    save_file({**tensors, "extra": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    assert "extra is unexpected" in refused(folder)


def test_weights_that_others_stand_for_need_not_be_there_and_those_that_none_does_must(copy):
    folder = copy("qwen3_vl")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    check_vlm(check_vlm_folder(folder, None))
    config = json.loads((folder / "config.json").read_text())
    change(folder / "config.json", text_config={**config["text_config"], "tie_word_embeddings": False})
    assert "lm_head.weight is missing" in refused(folder)


def test_a_weight_that_goes_after_the_check_is_not_made_up_when_loading(copy):
    folder = copy("smolvlm")
    files = check_vlm(check_vlm_folder(folder, None))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.text_model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"not a whole smolvlm model: model\.text_model\.norm\.weight"):
        load_vlm(files, CPU, torch.float32)


def test_what_a_network_computes_by_itself_may_be_in_files_of_older_versions(copy):
    folder = copy("llava")
    tensors = load_file(folder / "model.safetensors")
    tensors["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    load_vlm(check_vlm(check_vlm_folder(folder, None)), CPU, torch.float32)


# adapters


@pytest.fixture
def adapter(folders, tmp_path):
    """An adapter that PEFT made for the tiny SmolVLM; and the model with it, as PEFT has it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    def make(**settings):
        torch.manual_seed(3)
        model = AutoModelForImageTextToText.from_pretrained(folders("smolvlm"), dtype=torch.float32)
        tuned = get_peft_model(model, LoraConfig(r=2, lora_alpha=8, init_lora_weights=False, **settings))
        tuned.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", tuned

    return make


PATTERN = r"^model\.text_model.*\.(q|k|v|o|gate|up|down)_proj$"


@pytest.mark.parametrize("targets", [PATTERN, ["q_proj", "up_proj"], "all-linear"], ids=str)
def test_an_adapter_for_another_model_is_merged_as_peft_merges_it(targets, adapter, folders):
    folder, tuned = adapter(target_modules=targets)
    files = check_vlm(check_vlm_folder(folders("smolvlm"), folder))
    model = load_vlm(files, CPU, torch.float32)
    theirs = tuned.merge_and_unload().state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.allclose(tensor, theirs[name], atol=1e-6), name
    assert files.describe()["adapter"]


def test_an_adapter_that_lacks_a_layer_of_its_pattern_is_refused(adapter, folders):
    folder, _ = adapter(target_modules=PATTERN)
    tensors = load_file(folder / "adapter_model.safetensors")
    for name in [name for name in tensors if "layers.1.mlp.up_proj" in name]:
        del tensors[name]
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    message = refused(folders("smolvlm"), folder)
    assert "no weights for model.text_model.layers.1.mlp.up_proj" in message


def test_an_adapter_of_the_layer_that_shares_its_weights_with_the_words_is_refused(adapter, folders):
    folder, _ = adapter(target_modules=["lm_head"])
    tensors = load_file(folder / "adapter_model.safetensors")  # PEFT also saves the whole layer
    halves = {name: tensor for name, tensor in tensors.items() if ".lora_" in name}
    save_file(halves, folder / "adapter_model.safetensors", {"format": "pt"})
    assert "lm_head" in refused(folders("smolvlm"), folder)


@pytest.mark.parametrize("kind", ["smolvlm", "internvl"])
def test_the_adapter_of_qwen_is_refused_for_another_model(kind, folders):
    message = refused(folders(kind), PARITY / "VLM_LoRA" / "checkpoint-10000")
    assert "made for another base model" in message


# folders of no use


def test_a_kind_that_transformers_does_not_know_is_named_with_ways_out(copy):
    folder = copy("internvl")
    change(folder / "config.json", model_type="internvl_chat", auto_map={"AutoConfig": "evil.Config"})
    message = refused(folder)
    assert "no picture-text model of the kind internvl_chat" in message
    assert "--vlm_url" in message


def test_code_in_a_folder_is_never_run(copy):
    folder = copy("llava")
    (folder / "evil.py").write_text("raise SystemExit('it ran')")
    names = (
        "AutoConfig",
        "AutoModelForImageTextToText",
        "AutoTokenizer",
        "AutoImageProcessor",
        "AutoProcessor",
    )
    for file in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        change(folder / file, auto_map=dict.fromkeys(names, "evil.Evil"))
    files = check_vlm(check_vlm_folder(folder, None))
    processor_of(files)
    load_vlm(files, CPU, torch.float32)


@pytest.mark.parametrize("kind", ["Lfm2Vl", "Cohere2Vision", "PerceptionLM"])
def test_a_model_whose_pictures_want_torchvision_says_so(kind, copy):
    folder = copy("llava")
    change(folder / "preprocessor_config.json", image_processor_type=f"{kind}ImageProcessorFast")
    message = refused(folder)
    assert "torchvision" in message
    assert "--vlm_url" in message


@pytest.mark.parametrize("template", ["{{ 'hello' }}", "{% for m in messages %}{{ m.role }}{% endfor %}"])
def test_a_template_that_leaves_the_question_out_is_refused(template, copy):
    folder = copy("llava")
    (folder / "chat_template.jinja").write_text(template)
    assert "leaves the question out" in refused(folder)


def test_a_folder_without_template_is_refused(copy):
    folder = copy("llava")
    (folder / "chat_template.jinja").unlink()
    assert "no chat template" in refused(folder)


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("processor_config.json", {"image_seq_len": 2**40}),
        ("processor_config.json", {"image_seq_len": 1_000_000}),
        ("processor_config.json", {"image_seq_len": -3}),
        ("processor_config.json", {"image_seq_len": "four"}),
        ("preprocessor_config.json", {"image_std": [0, 0, 0]}),
        ("preprocessor_config.json", {"size": 3}),
        ("preprocessor_config.json", {"image_processor_type": "Nothing"}),
        ("tokenizer_config.json", {"tokenizer_class": 7}),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_named_before_anything_is_loaded(file, entries, copy):
    folder = copy("smolvlm")
    change(folder / file, **entries)
    assert str(folder) in refused(folder)


# a CPU without bf16 arithmetic


@pytest.fixture
def in_bf16(copy):
    """Copies a folder with its weights rounded to bf16, as released models have them."""

    def make(kind):
        folder = copy(kind)
        for file in folder.glob("*.safetensors"):
            save_file({name: one.bfloat16() for name, one in load_file(file).items()}, file, {"format": "pt"})
        return folder

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_where_the_cpu_emulates_bf16_such_weights_answer_as_in_fp32(kind, in_bf16, monkeypatch):
    files = check_vlm_folder(in_bf16(kind), None)
    inputs = [StepInput(picture("vlm_input/crop.png"), picture(f"{name}.png")) for name in SEEN]

    def answers(precision, emulates):
        monkeypatch.setattr("prompts.extractors.emulates_bf16", lambda _: emulates)
        extractor = VlmExtractor(files, Machine.choose("cpu", precision), 8, None)
        return [prompt.raw for prompt in extractor(inputs)], extractor.describe()["dtype"]

    exact = answers("fp32", emulates=True)
    assert answers("auto", emulates=True) == exact
    assert exact[1] == "float32"
    assert answers("auto", emulates=False)[1] == "bfloat16"
    assert answers("bf16", emulates=True)[1] == "bfloat16"


def test_there_its_weights_stay_in_their_16_bits(in_bf16, monkeypatch):
    monkeypatch.setattr("prompts.extractors.emulates_bf16", lambda _: True)
    machine = Machine.choose("cpu")
    VlmExtractor(check_vlm_folder(in_bf16("qwen3_vl"), None), machine, 8, None)
    with machine.residency.use(VLM) as model:
        blocks = model.model.language_model.layers
        assert {weight.dtype for weight in blocks.parameters()} == {torch.bfloat16}
