"""The RAM tagger with DAPE: the released layout, the published numbers, and what wrong files say."""

import hashlib
import json
import logging
import math
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import DATA, PARITY
from PIL import Image

from errors import InputError
from ram.files import RamFiles, RamSize, check_ram_files, dape_targets, read_ram_size
from ram.model import _by_name_in_file, build_tagger, load_ram, prepare, tags_on

RAM = PARITY / "RAM" / "ram_swin_tiny.pth"
DAPE = PARITY / "DAPE" / "DAPE.pth"
TAGS = PARITY / "RAM" / "ram_tag_list.txt"
THRESHOLDS = PARITY / "RAM" / "ram_tag_list_threshold.txt"
CPU = torch.device("cpu")

SWIN_L = RamSize(
    embed_dim=192,
    depths=(2, 2, 18, 2),
    heads=(6, 12, 24, 48),
    window=12,
    tags=4585,
    label_dim=512,
    head_layers=2,
    hidden=768,
    feed_forward=3072,
)


def files(ram=RAM, dape=DAPE):
    return check_ram_files(ram, dape, TAGS, THRESHOLDS)


def manifest(name, *uses):
    """Shapes by tensor name of a released file, of the rows with these uses (all where none is given)."""
    rows = [line.split("\t") for line in (DATA / name).read_text().splitlines()[1:]]
    return {
        row[0]: tuple(map(int, row[1].split("x"))) if row[1] else ()
        for row in rows
        if not uses or row[3].startswith(uses)
    }


def hollow(shapes):
    """Tensors of these shapes that take one number's room in a file: a real-size layout in a small file."""
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def expected():
    return json.loads((PARITY / "expected" / "tags.json").read_text())


@pytest.fixture(scope="module")
def taggers():
    return {
        "ram": load_ram(files(dape=None), CPU, torch.float32),
        "dape": load_ram(files(), CPU, torch.float32),
    }


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Files of the released names and shapes, optimizer and caption parts included, hollow."""
    folder = tmp_path_factory.mktemp("released")
    weights = hollow(manifest("ram_manifest.tsv"))
    state = {number: {"step": 7, "exp_avg": tensor} for number, tensor in enumerate(weights.values())}
    optimizer = {"state": state, "param_groups": [{"lr": 1e-5, "params": [*state]}]}
    torch.save({"model": weights, "optimizer": optimizer, "epoch": 4}, folder / "ram_swin_large_14m.pth")
    torch.save(hollow(manifest("dape_manifest.tsv")), folder / "DAPE.pth")
    (folder / "tags.txt").write_text("".join(f"tag {number}\n" for number in range(4585)))
    (folder / "thresholds.txt").write_text("0.5\n" * 4585)
    return folder


def changed(tmp_path, path, change):
    """A copy of a .pth file whose content `change` has changed in place."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, tmp_path / path.name)
    return tmp_path / path.name


# the released layout


def swin_l_of(shapes):
    """Files of a real-size RAM that holds tensors of these shapes; nothing of it is on the disk."""
    nowhere = Path("ram.pth")
    return RamFiles(nowhere, None, (nowhere, nowhere), SWIN_L, shapes, tags=[], thresholds=[])


def test_the_network_at_full_size_has_the_tensors_that_the_released_file_was_found_to_need():
    """By name and by shape: `build_tagger` refuses the smallest difference, as the next tests show."""
    needed = manifest("ram_manifest.tsv", "needed")
    tagger = build_tagger(swin_l_of(needed))
    assert len(needed) == 366
    assert set(_by_name_in_file(tagger)) == set(needed)
    assert {parameter.device.type for parameter in tagger.parameters()} == {"meta"}


def test_every_part_of_the_network_at_full_size_is_filled_once_from_the_released_file():
    needed = manifest("ram_manifest.tsv", "needed")
    tagger = build_tagger(swin_l_of(needed))
    filled = [part for parts in _by_name_in_file(tagger).values() for part in parts]
    computed = {name for name in tagger.state_dict() if name.endswith("relative_position_index")}
    assert len(filled) == len(set(filled))
    assert set(filled) == tagger.state_dict().keys() - computed
    assert sum(map(math.prod, needed.values())) == sum(tensor.numel() for tensor in tagger.parameters())


def test_the_released_file_with_its_caption_and_optimizer_parts_is_whole(released):
    path = released / "ram_swin_large_14m.pth"
    tagger = build_tagger(check_ram_files(path, None, released / "tags.txt", released / "thresholds.txt"))
    assert tagger.size == SWIN_L


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"fc.bias": None}, "fc.bias is missing"),
        ({"reweight_scale": (1,)}, "reweight_scale is unexpected"),
        ({"label_embed": (4585, 768)}, "label_embed is (4585, 768) instead of (4585, 512)"),
        (
            {"visual_encoder.layers.2.blocks.17.attn.qkv.weight": (1536, 768)},
            "visual_encoder.layers.2.blocks.17.attn.qkv.weight is (1536, 768) instead of (2304, 768)",
        ),
    ],
    ids=["missing", "unexpected as in RAM++", "shape", "shape of three in one"],
)
def test_the_smallest_difference_from_the_released_layout_is_named(change, problem):
    shapes = {**manifest("ram_manifest.tsv"), **change}
    with pytest.raises(InputError) as error:
        build_tagger(swin_l_of({name: shape for name, shape in shapes.items() if shape is not None}))
    assert str(error.value) == f"ram.pth: not a whole RAM checkpoint: {problem}: fetch it again"


def test_dape_changes_what_the_released_file_holds_updates_for():
    pairs = {pair for pairs, _ in dape_targets(SWIN_L).values() for pair in pairs}
    names = {f"{pair}.lora_{half}" for pair in pairs for half in "AB"}
    assert names == set(manifest("dape_manifest.tsv", "needed", "tied"))


def test_the_sizes_of_swin_l_are_read_from_the_shapes(released):
    size, shapes = read_ram_size(released / "ram_swin_large_14m.pth")
    assert size == SWIN_L
    assert shapes == manifest("ram_manifest.tsv")


# the published numbers


@pytest.mark.parametrize("kind", ["ram", "dape"])
@pytest.mark.parametrize("picture", ["vlm_input/parent.png", "vlm_input/crop.png", "input/scene.png"])
def test_logits_and_tags_are_those_of_the_published_code(kind, picture, taggers, expected):
    with torch.inference_mode():
        logits = taggers[kind](prepare(Image.open(PARITY / picture), 384)[None])
    wanted = expected[kind][picture]
    assert torch.allclose(logits[0], torch.tensor(wanted["logits"]), atol=1e-4, rtol=0)
    assert tags_on(logits, expected["labels"], expected["thresholds"]) == [wanted["tags"]]


def test_four_pictures_at_once_get_the_tags_they_get_alone(taggers, expected):
    scene = Image.open(PARITY / "input/scene.png")
    pictures = [
        scene,
        scene.rotate(90),
        Image.open(PARITY / "vlm_input/crop.png"),
        Image.new("RGB", (40, 40)),
    ]
    pixels = torch.stack([prepare(picture, 384) for picture in pictures])
    with torch.inference_mode():
        together = taggers["dape"](pixels)
        alone = torch.cat([taggers["dape"](one[None]) for one in pixels])
    assert torch.allclose(together, alone, atol=1e-5)
    lists = expected["labels"], expected["thresholds"]
    assert tags_on(together, *lists) == tags_on(alone, *lists)


def test_a_large_picture_is_shrunk_with_antialiasing_and_its_aspect_is_not_kept():
    stripes = Image.new("RGB", (768, 1536))
    stripes.putdata([((x % 2) * 255,) * 3 for _ in range(1536) for x in range(768)])
    pixels = prepare(stripes, 384)
    grey = (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert pixels.shape == (3, 384, 384)
    assert torch.allclose(pixels[:, 1:-1, 1:-1], grey.view(3, 1, 1).expand(3, 382, 382), atol=0.02)


def test_a_tag_is_on_only_above_its_threshold():
    logits = torch.tensor([[0.0, 0.0, 5.0], [-9.0, -9.0, -9.0]])
    assert tags_on(logits, ["at", "above", "sure"], [0.5, 0.4, 0.9]) == ["above, sure", ""]


# loading


def test_the_tagging_head_is_found_under_its_older_name(tmp_path, taggers):
    def rename(content):
        content["model"] = {
            name.replace("tagging_head", "vision_multi"): tensor for name, tensor in content["model"].items()
        }

    older = load_ram(files(ram=changed(tmp_path, RAM, rename)), CPU, torch.float32).state_dict()
    for name, tensor in taggers["dape"].state_dict().items():
        assert torch.equal(older[name], tensor), name


def test_dape_leaves_the_key_projections_of_swin_and_all_else_untouched(taggers):
    plain, tuned = (taggers[kind].state_dict() for kind in ("ram", "dape"))
    differing = {name for name in plain if not torch.equal(plain[name], tuned[name])}
    swin = {name for name in plain if name.endswith(("self.query.weight", "self.value.weight"))}
    head = {f"head.{layer}.{part}.weight" for layer in (0, 1) for part in ("query", "key")}
    assert differing == swin | head


def test_updates_of_the_tied_tag_encoder_land_in_the_tagging_head(tmp_path, taggers):
    def silence(content):
        content["tag_encoder.encoder.layer.1.crossattention.self.key.lora_B"].zero_()

    without = load_ram(files(dape=changed(tmp_path, DAPE, silence)), CPU, torch.float32)
    assert not torch.equal(without.head[1].key.weight, taggers["dape"].head[1].key.weight)
    assert torch.equal(without.head[0].key.weight, taggers["dape"].head[0].key.weight)


def test_the_weights_have_the_wanted_dtype_and_do_not_lean_on_the_file(tmp_path):
    copy = shutil.copy(RAM, tmp_path)
    tagger = load_ram(files(ram=tmp_path / RAM.name), CPU, torch.bfloat16)
    with open(copy, "r+b") as file:  # noqa: PTH123
        file.truncate(0)
    with torch.inference_mode():
        logits = tagger(torch.zeros(1, 3, 384, 384, dtype=torch.bfloat16))
    assert {parameter.dtype for parameter in tagger.parameters()} == {torch.bfloat16}
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert not tagger.training


# what is checked before anything is loaded


def test_the_released_layout_passes_the_checks_without_a_warning_but_about_its_lists(released, caplog):
    names = ("ram_swin_large_14m.pth", "DAPE.pth", "tags.txt", "thresholds.txt")
    with caplog.at_level(logging.WARNING):
        check_ram_files(*(released / name for name in names))
    assert [record.message.split(" is not ")[1] for record in caplog.records] == [
        "RAM's released list: its lines are taken as they are"
    ] * 2


def test_ram_without_dape_is_allowed_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        check_ram_files(RAM, None, TAGS, THRESHOLDS)
    assert "plain RAM" in caplog.text


def refused(*paths):
    with pytest.raises(InputError) as error:
        check_ram_files(*paths)
    message = str(error.value)
    assert "\n" not in message
    return message


def refused_when_built(ram):
    """What is said where the headers pass but the network needs other tensors than the file has."""
    checked = files(ram=ram)
    with pytest.raises(InputError) as error:
        build_tagger(checked)
    message = str(error.value)
    assert str(ram) in message
    assert "\n" not in message
    return message


def test_a_missing_file_is_named(tmp_path):
    for position, paths in enumerate([[RAM, DAPE, TAGS, THRESHOLDS] for _ in range(4)]):
        paths[position] = tmp_path / "gone"
        assert str(tmp_path / "gone") in refused(*paths)


def test_a_file_cut_short_is_refused(tmp_path):
    short = tmp_path / "short.pth"
    short.write_bytes(RAM.read_bytes()[:100_000])
    assert str(short) in refused(short, DAPE, TAGS, THRESHOLDS)


def test_a_file_with_code_in_it_is_refused_and_not_run(tmp_path):
    class Touch:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    evil = tmp_path / "evil.pth"
    torch.save({"model": {}, "config": Touch()}, evil)
    assert str(evil) in refused(evil, DAPE, TAGS, THRESHOLDS)
    assert not (tmp_path / "ran").exists()


def test_dape_given_as_ram_is_refused():
    assert "not a RAM checkpoint" in refused(DAPE, DAPE, TAGS, THRESHOLDS)


def test_ram_given_as_dape_is_refused():
    assert "not a DAPE file for this RAM" in refused(RAM, RAM, TAGS, THRESHOLDS)


@pytest.mark.parametrize(
    "name",
    ["image_proj.bias", "visual_encoder.layers.1.blocks.0.mlp.fc1.weight", "fc.weight"],
)
def test_a_missing_tensor_is_named_before_a_weight_is_read(name, tmp_path):
    broken = changed(tmp_path, RAM, lambda content: content["model"].pop(name))
    assert f"{name} is missing" in refused_when_built(broken)


def test_an_unexpected_tensor_such_as_ram_plus_has_is_named(tmp_path):
    def add(content):
        content["model"]["reweight_scale"] = torch.zeros(1)

    assert "reweight_scale is unexpected" in refused_when_built(changed(tmp_path, RAM, add))


def test_dape_for_another_ram_is_refused(released):
    assert "not a DAPE file for this RAM" in refused(RAM, released / "DAPE.pth", TAGS, THRESHOLDS)


def test_half_a_dape_pair_is_refused(tmp_path):
    name = "visual_encoder.layers.2.blocks.1.attn.qkv.lora_A"
    broken = changed(tmp_path, DAPE, lambda content: content.pop(name))
    assert f"{name} is missing" in refused(RAM, broken, TAGS, THRESHOLDS)


def test_loading_is_as_strict_as_the_checks(tmp_path):
    broken = changed(tmp_path, RAM, lambda content: content["model"].pop("fc.bias"))
    with pytest.raises(InputError, match=r"fc\.bias"):
        load_ram(files(ram=broken), CPU, torch.float32)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("0.5\n" * 19, "19 thresholds, but this RAM has 20 tags"),
        ("0.5\n" * 19 + "high\n", "line 20 ('high') is not a threshold"),
        ("1.5\n" + "0.5\n" * 19, "line 1 ('1.5') is not a threshold"),
    ],
)
def test_wrong_thresholds_are_refused(text, problem, tmp_path):
    path = tmp_path / "thresholds.txt"
    path.write_text(text)
    assert problem in refused(RAM, DAPE, TAGS, path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cat\n" * 21, "21 tags, but this RAM has 20 tags"),
        ("cat\n\n" + "dog\n" * 18, "line 2 is empty"),
    ],
)
def test_a_wrong_tag_list_is_refused(text, problem, tmp_path):
    path = tmp_path / "tags.txt"
    path.write_text(text)
    assert problem in refused(RAM, DAPE, path, THRESHOLDS)


# what a run records


def test_the_four_files_are_recorded_by_name_and_content_wherever_they_lie(tmp_path):
    described = files().describe()
    moved = [shutil.copy(path, tmp_path) for path in (RAM, DAPE, TAGS, THRESHOLDS)]
    assert check_ram_files(*map(Path, moved)).describe() == described
    assert json.loads(json.dumps(described)) == described
    assert described["ram"] == {"file": RAM.name, "sha256": hashlib.sha256(RAM.read_bytes()).hexdigest()}
    assert files(dape=None).describe() == {**described, "dape": None}


@pytest.mark.parametrize("name", ["ram", "dape"])
def test_other_weights_in_a_file_of_the_same_name_size_and_table_of_entries_are_recorded(name, tmp_path):
    """One byte of a weight is changed in place: even the zip archive's checksums stay as they were."""
    copy = Path(shutil.copy({"ram": RAM, "dape": DAPE}[name], tmp_path))
    content = bytearray(copy.read_bytes())
    with zipfile.ZipFile(copy) as archive:
        tensor = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[tensor.header_offset + tensor.file_size] ^= 1  # within the tensor, which begins a little later
    copy.write_bytes(content)
    before, after = files().describe(), files(**{name: copy}).describe()
    assert after[name]["file"] == before[name]["file"]
    assert after[name]["sha256"] != before[name]["sha256"]
    assert {**after, name: None} == {**before, name: None}
