"""A whole chain with and without int8 parts: what --measure_chain says."""

import json
import shutil
from pathlib import Path

import pytest
from quantized_parts import FROM, quantized_parts

from int8.measure_chain import ChainMeasured, sets_of
from sd3.spec import PARTS


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    return quantized_parts(tmp_path_factory)


@pytest.fixture
def parts(quantized, tmp_path):
    """Return what copies some parts into a folder of their own."""

    def copy(*components: str) -> Path:
        for component in components:
            shutil.copytree(quantized / component, tmp_path / "parts" / component)
        return tmp_path / "parts"

    return copy


def test_parts_that_are_there_are_measured_and_none_is_made(command, parts, monkeypatch):
    monkeypatch.setattr("machine.residency.return_memory", lambda *_: None)  # slow among a test run's objects
    folder = parts("vae_decoder")
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*_quantized/*")}
    done = command("quantize_model", "--measure_chain", "--output_dir", folder, *FROM)
    assert done.code == 0
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*_quantized/*")} == before

    written = json.loads((folder / "chain.json").read_text())
    [measured] = written["psnr"]
    assert measured["int8"] == ["vae_decoder"]
    assert written["quantized"].keys() == {"vae_decoder"}
    assert len(written["pictures"]) == len(measured["pictures"]) == 2
    for first, second in measured["pictures"]:
        assert 40 < first < 100  # 100 would be PyTorch itself
        assert 20 < second < first  # the second step enlarges what the first has changed

    header, line, place = done.out.splitlines()
    assert header.startswith("a chain of 2 steps, 2 pictures of 128x128")
    worst = [min(of) for of in zip(*measured["pictures"], strict=True)]
    assert line.split() == ["int8", "vae_decoder", f"{worst[0]:.1f}", "dB,", f"{worst[1]:.1f}", "dB"]
    assert place.startswith(str(folder / "chain.json"))


def test_what_is_measured_is_each_part_the_text_encoders_and_all():
    assert sets_of(list(PARTS)) == [
        *((part,) for part in PARTS),
        ("text_enc_1", "text_enc_2", "text_enc_3"),
        tuple(PARTS),
    ]
    assert sets_of(["text_enc_1"]) == [("text_enc_1",)]
    assert sets_of(["vae_encoder", "vae_decoder"])[2:] == [("vae_encoder", "vae_decoder")]


def test_the_figure_of_a_step_is_that_of_the_picture_that_comes_out_worst():
    measured = ChainMeasured((64, 64), [], {("transformer",): [[50.0, 31.0], [48.0, 33.0]]})
    assert measured.worst() == {("transformer",): [48.0, 31.0]}


def test_without_a_part_there_is_nothing_to_measure(command, tmp_path):
    done = command("quantize_model", "--measure_chain", "--output_dir", tmp_path, *FROM)
    assert done.code == 2
    assert "holds no part made from these files" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_part_made_from_other_files_is_named_and_not_measured(command, parts):
    folder = parts("transformer")
    without_lora = [*FROM[:2], *FROM[-4:]]
    done = command("quantize_model", "--measure_chain", "--output_dir", folder, *without_lora)
    assert done.code == 2
    assert "transformer is not measured" in done.err
    assert "another SR LoRA" in done.err
    assert not (folder / "chain.json").exists()
