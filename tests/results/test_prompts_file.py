"""Prompts in a CSV file."""

import pytest

from errors import InputError
from results.prompts_file import prompts_csv, read_prompts
from results.run_report import PictureRecord, StepRecord, TilePrompt


def step(number, **fields):
    return StepRecord(number, 4**number, (0, 0, 1, 1), number - 1, (4, 4), (0, 0, 1, 1), "invented", **fields)


def test_what_a_run_writes_is_read_back_word_by_word(tmp_path):
    picture = PictureRecord("a", "x/a.png", "/x/a.png")
    texts = ["", "cat, fur", 'he said "hello"', "two\nlines", "Ünïcödé 写真"]
    picture.steps = [step(k, prompt=text) for k, text in enumerate(texts, 1)]
    (tmp_path / "prompts.csv").write_bytes(prompts_csv([picture]))
    assert read_prompts(tmp_path / "prompts.csv") == {
        ("x/a.png", k, 0): text for k, text in enumerate(texts, 1)
    }


def test_prompts_of_tiles_are_read_back_beside_those_of_whole_pictures(tmp_path):
    picture = PictureRecord("a", "a.png", "/a.png")
    tiles = [TilePrompt((0, 0, 2, 4), "fur"), TilePrompt((2, 0, 4, 4), "sky, blue")]
    picture.steps = [step(1, prompt="a cat"), step(2, tiles=tiles)]
    (tmp_path / "prompts.csv").write_bytes(prompts_csv([picture]))
    assert read_prompts(tmp_path / "prompts.csv") == {
        ("a.png", 1, 0): "a cat",
        ("a.png", 2, 1): "fur",
        ("a.png", 2, 2): "sky, blue",
    }


def test_a_file_saved_by_a_spreadsheet_is_read(tmp_path):
    (tmp_path / "p.csv").write_bytes('\ufeffstep,prompt,file\r\n2,"a, b",a.png\r\n'.encode())
    assert read_prompts(tmp_path / "p.csv") == {("a.png", 2, 0): "a, b"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("file,prompt\na.png,cat\n", "no column step"),
        ("", "no column file, step, prompt"),
        ("file,step,prompt\na.png,1\n", "line 2: not three values"),
        ("file,step,prompt\na.png,1,cat,fur\n", "line 2: not three values"),
        ("file,step,prompt\na.png,zero,cat\n", "line 2: the step must be a number from 1"),
        ("file,step,prompt\na.png,0,cat\n", "line 2: the step must be a number from 1"),
        ("file,step,prompt,tile\na.png,1,cat,x\n", "line 2: the tile must be a number from 1"),
        ("file,step,prompt\na.png,1,cat\na.png,1,dog\n", "line 3: a.png, step 1 is there a second time"),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_reason(tmp_path, content, reason):
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(InputError, match=reason):
        read_prompts(tmp_path / "p.csv")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "p.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_prompts(tmp_path / "p.csv")
