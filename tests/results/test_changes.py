"""What differs between two runs' settings, in words."""

import json

import pytest

from command.decide import TILE_OPTIONS, chain_settings, parse
from command.options import build_parser
from command.parts import Parts
from command.zooming import describe
from results.changes import differences
from zoom.settings import Tiles

OLD, NEW = "a" * 64, "b" * 64


def changes(kind: str, old: object, new: object) -> list[str]:
    return differences({kind: old}, {kind: new})


def test_equal_settings_differ_in_nothing():
    settings = {"chain": {"seed": 1}, "backbone": {"files": {"a": OLD}}, "extractor": None}
    assert differences(settings, json.loads(json.dumps(settings))) == []


def test_every_setting_of_the_chain_is_called_as_its_option(tmp_path):
    options = parse([str(tmp_path)])
    described = describe(chain_settings(options), Parts(), {})
    known = build_parser()._option_string_actions
    for name in described["chain"]:
        (said,) = changes("chain", described["chain"], described["chain"] | {name: 12345})
        assert said.partition(" was ")[0] in known


def test_every_size_of_tiles_is_called_as_its_option():
    sizes = vars(Tiles())
    for field, option in TILE_OPTIONS.items():
        said = changes("backbone", {"tiles": sizes}, {"tiles": sizes | {field: 16}})
        assert said == [f"--{option} was {sizes[field]}, is 16"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"seed": 1}, {"seed": 2}, "--seed was 1, is 2"),
        ({"process_size": [512, 512]}, {"process_size": [64, 128]}, "--process_size was 512x512, is 64x128"),
        ({"center": None}, {"center": [0.5, 0.25]}, "--center was not given, is 0.5 0.25"),
        ({"full_image": False}, {"full_image": True}, "--full_image was not given, is given"),
        ({"prompt": ""}, {"prompt": "a cat"}, "--prompt was '', is 'a cat'"),
    ],
)
def test_values_are_said_as_they_are_given(old, new, said):
    assert changes("chain", old, new) == [said]


@pytest.mark.parametrize(
    ("kind", "old", "new", "said"),
    [
        ("backbone", {"backbone": "embedded", "x": 1}, {"backbone": "sd3", "y": 2},
         "--backbone was embedded, is sd3"),
        ("extractor", None, {"extractor": "null"}, "--prompt_type was not given, is null"),
        ("extractor", {"extractor": "dape", "x": 1}, {"extractor": "vlm"}, "--prompt_type was dape, is vlm"),
        ("backbone", {"file": "a.pth", "sha256": OLD}, {"file": "b.pth", "sha256": NEW},
         "--backbone was a.pth, is b.pth"),
        ("backbone", {"dtypes": {"vae": "float32"}}, {"dtypes": {"vae": "bfloat16"}},
         "the precision of vae (--mixed_precision, --quantize) was float32, is bfloat16"),
        ("backbone", {"stand_ins": []}, {"stand_ins": ["text_enc_1"]},
         "the parts in int8 (--quantize) was none, is text_enc_1"),
        ("extractor", {"adapter": None}, {"adapter": {"a.safetensors": OLD}},
         "--vlm_lora_path was not given, is given"),
        ("extractor", {"fallback": {"ram": {"file": "a.pth", "sha256": OLD}}},
         {"fallback": {"ram": {"file": "b.pth", "sha256": OLD}}}, "--ram_path was a.pth, is b.pth"),
    ],
)  # fmt: skip
def test_parts_are_called_as_their_options(kind, old, new, said):
    assert changes(kind, old, new) == [said]


@pytest.mark.parametrize(
    ("kind", "old", "new", "file"),
    [
        ("backbone", {"file": "a.pth", "sha256": OLD}, {"file": "a.pth", "sha256": NEW},
         "the checkpoint a.pth"),
        ("backbone", {"files": {"vae": {"x.json": OLD}}}, {"files": {"vae": {"x.json": NEW}}},
         "the checkpoint vae/x.json"),
        ("backbone", {"lora_sha256": OLD}, {"lora_sha256": NEW}, "the file of --lora_path"),
        ("backbone", {"weights": [f"a==1 {OLD}"]}, {"weights": [f"a==1 {NEW}"]},
         "the checkpoint of the embedded network"),
        ("extractor", {"ram": {"file": "r.pth", "sha256": OLD}}, {"ram": {"file": "r.pth", "sha256": NEW}},
         "the checkpoint r.pth"),
        ("extractor", {"adapter": {"a.safetensors": OLD}}, {"adapter": {"a.safetensors": NEW}},
         "the checkpoint a.safetensors"),
        ("prompts_file", OLD, NEW, "the file of --prompts_file"),
        ("quantized", {"text_enc_1": OLD}, {"text_enc_1": NEW},
         "the checkpoint text_enc_1 in int8 (--quantize)"),
    ],
)  # fmt: skip
def test_files_of_other_content_are_named_without_their_sums(kind, old, new, file):
    assert changes(kind, old, new) == [f"{file} has other content than before"]


@pytest.mark.parametrize(
    "odd", [None, 1, "x", [], [{"a": 1}], {"seed": {"a": [1]}}, {"": None}, {"backbone": 3}]
)
def test_settings_that_no_run_writes_differ_all_the_same(odd):
    for kind in ("chain", "backbone", "extractor", "quantized", "else"):
        said = changes(kind, odd, {"seed": 1})
        assert said
        assert all("{" not in one for one in said)
