"""rewards.csv, its plot, and answers.jsonl: written, cut where a training goes on, damaged."""

import io
import json

import pytest
from PIL import Image

from results.folder import Folder
from training.reward_log import COLUMNS, AnswerLog, RewardLog, read_rewards, smoothed

LOGGED = {"reward": 0.5, "rewards/critic/mean": 0.25, "kl": 1e-7, "loss": -0.0, "step_time": 0.123456789}


def log(folder, steps, after=0):
    written = RewardLog(Folder(folder), folder / "rewards.csv", after)
    for step in range(after + 1, after + 1 + steps):
        written.add(step, LOGGED)
    return written


def test_a_step_is_a_line_and_what_is_not_known_is_empty(tmp_path):
    log(tmp_path, 2)
    header, first, second = (tmp_path / "rewards.csv").read_text().splitlines()
    assert header == "step," + ",".join(COLUMNS)
    assert first == "1,0.5,,0.25,,,,,1e-07,-0.0,,,,,0.123457"
    assert second.startswith("2,")


def test_a_resumed_training_takes_back_what_came_after_its_checkpoint(tmp_path):
    log(tmp_path, 5)
    again = log(tmp_path, 1, after=3)
    assert [row["step"] for row in again.rows] == [1, 2, 3, 4]
    assert read_rewards(tmp_path / "rewards.csv") == again.rows


@pytest.mark.parametrize(
    "end", ["4,0.5,", "four,1\n", "4,nan,,,,,,,,,,,,,\n", "-1,,,,,,,,,,,,,,\n", "\0\xff\n"]
)
def test_a_damaged_end_is_left_out(tmp_path, end):
    log(tmp_path, 3)
    with (tmp_path / "rewards.csv").open("a", encoding="latin-1") as file:
        file.write(end)
    assert [row["step"] for row in read_rewards(tmp_path / "rewards.csv")] == [1, 2, 3]


def test_answers_are_cut_too_and_a_half_line_goes(tmp_path):
    file = tmp_path / "answers.jsonl"
    for step in (1, 2, 3):
        AnswerLog(Folder(tmp_path), file, step - 1).add([{"step": step, "answer": "a\nb"}] * 2)
    with file.open("a") as damaged:
        damaged.write('{"step": 1')
    AnswerLog(Folder(tmp_path), file, 2)
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [1, 1, 2, 2]


def test_the_plots_thick_line_averages_what_is_known():
    nan = float("nan")
    assert smoothed([1.0, nan, 3.0]) == [1.0, 1.0, 2.0]
    assert smoothed([0.0] * 20 + [1.0])[-1] == pytest.approx(1 / 20)


def test_the_plot_is_a_picture_also_of_one_step_and_where_the_critic_never_answered(tmp_path):
    pytest.importorskip(
        "matplotlib", reason="matplotlib is not installed: pip install -r requirements-train.txt"
    )
    from training.reward_log import draw_rewards

    for steps in (1, 30):
        rows = log(tmp_path, steps).rows
        drawn = draw_rewards([{**row, "critic": None} for row in rows], "tiny, 1 step")
        with Image.open(io.BytesIO(drawn)) as plot:
            assert plot.format == "PNG"
            assert len(plot.convert("RGB").getcolors(2**24)) > 20
