"""Films: their frames follow the flight's law without a jump, and their files are what players expect."""

import errno
import json
import math
import os
import shutil
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import PARITY
from PIL import Image, ImageSequence

from errors import PictureError
from results.output_tree import FILMS, OutputTree
from results.run_report import PictureRecord, StepRecord
from viewer.encoders import WRITERS, durations, write_mp4
from viewer.film import Film
from viewer.film_settings import FPS, FilmSettings
from viewer.flight import factor_at, layers_of

SCENE = PARITY / "input" / "scene.png"
SIDE = 128
RESIZE = ("--process_size", 64, "--rec_num", 3, "--rec_type", "bicubic")
SHORT = ("--video_seconds", 2, "--video_fps", 10)


def picture(states: list[Image.Image], tree: OutputTree, left: int = 48, top: int = 48) -> PictureRecord:
    """Write states of one size as a run would that looks at the same quarter of each; return the record."""
    width, height = states[0].size
    record = PictureRecord("a", "a.png", "/a.png", view=(0.0, 0.0, width, height), status="done")
    for step, state in enumerate(states):
        tree.write_image(state, tree.state("a", step))
        if step:
            window = (left, top, width // 4, height // 4)
            size = (width, height)
            record.steps.append(
                StepRecord(step, 4**step, window, step - 1, size, (0, 0, 1, 1), "invented", done=True)
            )
    return record


def rings(step: int) -> np.ndarray:
    """Return what is seen at a step of a world that is the same at every factor of 2: values of -1 to 1."""
    y, x = (np.indices((SIDE, SIDE)) + 0.5 - SIDE / 2) / 4**step
    return np.cos(2 * math.pi * np.log2(np.hypot(x, y)))


def grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(127 + 100 * values, 0, 255).astype(np.uint8)).convert("RGB")


def noise(seed: int, side: int = SIDE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def misses(frame: np.ndarray, factor: float) -> float:
    """Return by how much a frame of the world of rings is of another factor, as a share of it."""
    y, x = np.indices((SIDE, SIDE)) + 0.5 - SIDE / 2
    radius = np.hypot(x, y)
    seen = (radius > 8) & (radius < 64)
    wave = np.exp(2j * math.pi * (np.log2(radius[seen]) - math.log2(factor))) / radius[seen] ** 2
    return abs(2 ** (np.angle(np.sum((frame[seen] - 127.0) * wave)) / (2 * math.pi)) - 1)


def differences(frames: list[np.ndarray]) -> np.ndarray:
    return np.array([np.abs(b - a).mean() for a, b in pairwise(frames)])


@pytest.fixture
def tree(tmp_path) -> OutputTree:
    return OutputTree(tmp_path)


def films_in(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder / "video").as_posix() for file in folder.glob("video/**/*.*"))


# the frames


def test_every_frame_of_the_file_is_of_the_factor_that_the_law_says(tree):
    record = picture([grey(rings(step)) for step in range(4)], tree)
    film = Film(tree, record, FilmSettings(fps=15))
    file = tree.root / "film.mp4"
    write_mp4(film, file, 15, 0, lambda: None)
    with av.open(str(file)) as container:
        frames = [frame.to_ndarray(format="gray").astype(float) for frame in container.decode(video=0)]
    assert len(frames) == film.count == 15 * 7
    layers = layers_of(record)
    for number, frame in enumerate(frames):
        assert misses(frame, factor_at(layers, film.depth(number))) < 0.01, number


def test_a_flight_has_one_speed_but_for_its_soft_start_and_end(tree):
    record = picture([noise(step) for step in range(4)], tree)
    film = Film(tree, record, FilmSettings(fps=30))
    steps = np.diff([film.depth(number) for number in range(film.count)])
    assert (film.depth(0), film.depth(film.count - 1)) == (0, 3)
    assert np.allclose(steps[31:-31], 1 / (2 * 30), rtol=0.01), "two seconds a step"
    assert np.ptp(steps[31:-31]) < 1e-9
    assert max(steps[0], steps[-1]) < steps[60] / 30
    assert (np.diff(steps[:30]) > 0).all()


def test_nothing_jumps_where_one_state_takes_over_from_another(tree):
    """Each state has grain of its own, as a network makes it."""
    states = []
    for step in range(4):
        grain = np.random.default_rng(step).normal(0, 0.25, (SIDE, SIDE))
        states.append(grey(rings(step) * 0.6 + grain))
    film = Film(tree, picture(states, tree), FilmSettings(fps=30))
    depths = np.array([film.depth(number) for number in range(film.count)])
    frames = [np.asarray(film.frame(number)).astype(float) for number in range(film.count)]
    changes = differences(frames)
    usual = np.median(changes[31:-31])
    for join in (1, 2):
        around = np.abs(depths[:-1] - join) < 0.25
        assert around.sum() > 20
        assert changes[around].max() < 1.5 * usual


def test_a_state_that_comes_in_has_no_edge(tree):
    """White comes in on black: nowhere is the step between neighbours one that the eye takes for a line."""
    states = [Image.new("RGB", (SIDE, SIDE)), Image.new("RGB", (SIDE, SIDE), "white")]
    film = Film(tree, picture(states, tree), FilmSettings(fps=30))
    for number in range(film.count):
        if film.depth(number) < 0.85:
            frame = np.asarray(film.frame(number).convert("L")).astype(int)
            assert np.abs(np.diff(frame)).max() < 255 / 8, film.depth(number)


@pytest.mark.parametrize("step", [0, 1, 2])
def test_at_a_states_depth_the_frame_is_the_state(tree, step, monkeypatch):
    states = [noise(seed) for seed in range(3)]
    film = Film(tree, picture(states, tree, 7, 91), FilmSettings())
    monkeypatch.setattr(film, "depth", float)
    seen, made = (np.asarray(one).astype(int) for one in (film.frame(step), states[step]))
    assert np.abs(seen - made).max() <= 1


def test_a_film_of_a_run_ends_with_its_last_state(command, tmp_path):
    """The picture's sides fit no state exactly, so that pixels are not quite square."""
    shutil.copy(PARITY / "input" / "turned.png", tmp_path)
    Image.open(SCENE).convert("RGB").resize((451, 301)).save(tmp_path / "odd.png")
    done = command(
        "inference_coz", "-i", tmp_path / "odd.png", "-o", tmp_path / "out", *RESIZE, "--center", 0.3, 0.7
    )
    assert done.code == 0, done.err
    from results.load_report import load_report

    tree = OutputTree(tmp_path / "out")
    film = Film(tree, load_report(tree.run_json).pictures["odd"], FilmSettings(seconds=1))
    for number, step in ((0, 0), (film.count - 1, 3)):
        with Image.open(tree.state("odd", step)) as state:
            far = np.abs(np.asarray(film.frame(number)).astype(int) - np.asarray(state)).max()
        assert far <= 1, step


def test_places_are_exact_at_magnifications_where_a_pixel_of_the_picture_is_too_large_for_a_float(
    tree, monkeypatch
):
    states = [noise(0)] * 41  # 4**40 is 10**24
    film = Film(tree, picture(states, tree, 17, 5), FilmSettings())
    monkeypatch.setattr(film, "depth", lambda number: number / 2)
    first, last = (np.asarray(film.frame(number)).astype(int) for number in (1, 79))
    assert np.abs(last - first).max() <= 1


def test_a_frame_of_another_aspect_is_filled_and_cut(tree, monkeypatch):
    states = [noise(seed) for seed in range(2)]
    film = Film(tree, picture(states, tree), FilmSettings(size=(SIDE, SIDE // 2)))
    monkeypatch.setattr(film, "depth", float)
    for step in (0, 1):
        middle = np.asarray(states[step]).astype(int)[SIDE // 4 : -SIDE // 4]
        assert np.abs(np.asarray(film.frame(step)) - middle).max() <= 1
    tall = Film(tree, picture(states, tree), FilmSettings(size=(SIDE // 2, SIDE)))
    assert np.abs(np.asarray(tall.frame(0)) - np.asarray(states[0])[:, 32:96].astype(int)).max() <= 1


@pytest.fixture
def whole(tree) -> PictureRecord:
    """A picture of 64x48 pixels that is enlarged as a whole, twice."""
    record = PictureRecord("a", "a.png", "/a.png", view=(0.0, 0.0, 64.0, 48.0), size=(64, 48), status="done")
    for step in range(3):
        size = (64 * 4**step, 48 * 4**step)
        tree.write_image(noise(step, 1024).crop((0, 0, *size)), tree.state("a", step))
        if step:
            window = (0, 0, size[0] // 4, size[1] // 4)
            record.steps.append(
                StepRecord(step, 4**step, window, step - 1, size, record.view, "invented", done=True)
            )
    return record


def test_of_a_picture_enlarged_as_a_whole_the_middle_is_flown_into(tree, whole, monkeypatch):
    film = Film(tree, whole, FilmSettings())
    monkeypatch.setattr(film, "depth", float)
    for step in range(3):
        with Image.open(tree.state("a", step)) as state:
            left, top = (state.width - 64) // 2, (state.height - 48) // 2
            middle = np.asarray(state.crop((left, top, left + 64, top + 48))).astype(int)
        assert np.abs(np.asarray(film.frame(step)) - middle).max() <= 1


def test_of_a_picture_enlarged_as_a_whole_only_what_is_seen_is_kept_in_memory(tree, whole, monkeypatch):
    film = Film(tree, whole, FilmSettings())
    monkeypatch.setattr(film, "depth", float)
    for step in range(3):
        film.frame(step)
        assert len(film._parts) <= 2
        held = sum(part.pixels.width * part.pixels.height for part in film._parts.values())
        assert held < 1.1 * (16 + 16) * 64 * 48, "two states, of the larger what is seen: 256 if it were all"


def test_a_whole_photograph_and_a_gif_are_not_filmed_at_any_size(tree):
    photograph = Image.new("RGB", (3000, 1999))
    record = picture([photograph, photograph], tree)
    assert Film(tree, record, FilmSettings()).size == (3000, 1998), "even, for H.264"
    assert Film(tree, record, FilmSettings("gif")).size == (320, 212)
    record.steps[0].view, record.steps[0].size = record.view, (12000, 7996)
    assert Film(tree, record, FilmSettings()).size == (1024, 682)


def test_there_and_back_shows_no_frame_twice_in_a_row_also_when_it_plays_again(tree):
    record = picture([noise(step) for step in range(2)], tree)
    film = Film(tree, record, FilmSettings(seconds=1, fps=10, back=True))
    depths = [film.depth(number) for number in range(film.count)]
    assert film.count == 18
    assert (max(depths), depths[0]) == (depths[9], 0) == (1, 0)
    assert depths[10:] == depths[8:0:-1]
    changes = np.abs(np.diff([*depths, *depths]))
    assert changes.min() > 0


@pytest.mark.parametrize(
    "damage",
    [
        {"window": (100, 100, 32, 32)},
        {"window": (48, 48, 0, 32)},
        {"window_of": 7},
        {"magnification": 10**400},
        {"magnification": 1},
        {"size": (2**24, 2**24)},
    ],
)
def test_a_record_that_no_run_writes_is_refused(tree, damage):
    record = picture([noise(step) for step in range(3)], tree)
    for name, value in damage.items():
        setattr(record.steps[1], name, value)
    with pytest.raises(PictureError, match="none that a run writes"):
        Film(tree, record, FilmSettings())


# the files


def test_every_format_has_its_writer_its_place_and_its_speed():
    assert set(FPS) == set(FILMS) == set(WRITERS)


def test_an_mp4_is_h264_that_plays_everywhere(command, tmp_path):
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE, "--video", "mp4", *SHORT)
    assert done.code == 0, done.err
    file = tmp_path / "video" / "scene.mp4"
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(video=0))
        assert (stream.codec.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.average_rate, len(frames)) == (10, 20)
        assert float(stream.duration * stream.time_base) == pytest.approx(2)
        assert (stream.width, stream.height) == (64, 64)
    content = file.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat"), "a browser plays it before it has all of it"
    assert str(tmp_path / "video") in done.out


@pytest.mark.parametrize(
    ("ending", "loop", "said"), [("webp", 0, 0), ("webp", 3, 3), ("gif", 0, 0), ("gif", 3, 2)]
)
def test_an_animated_picture_has_the_frames_the_duration_and_the_loop_that_were_asked(
    command, tmp_path, ending, loop, said
):
    options = ("--video", ending, "--video_seconds", 2, "--video_fps", 15, "--video_loop", loop)
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE, *options)
    assert done.code == 0, done.err
    with Image.open(tmp_path / "video" / f"scene.{ending}") as film:
        assert (film.format.lower(), film.size, film.n_frames) == (ending, (64, 64), 30)
        assert film.info["loop"] == said, "GIF counts repetitions"
        shown = []
        for frame in ImageSequence.Iterator(film):
            frame.load()
            shown.append(frame.info["duration"])
    assert sum(shown) == 2000
    assert set(shown) <= ({60, 70} if ending == "gif" else {66, 67})


def test_a_gif_that_plays_once_says_nothing_of_loops(tree):
    film = Film(tree, picture([noise(0), noise(1)], tree), FilmSettings("gif", seconds=0.3, fps=10))
    WRITERS["gif"](film, tree.root / "a.gif", 10, 1, lambda: None)
    with Image.open(tree.root / "a.gif") as gif:
        assert "loop" not in gif.info


def test_durations_do_not_drift():
    assert [list(durations(3, 30, unit)) for unit in (1, 10)] == [[33, 34, 33], [30, 40, 30]]


@pytest.mark.parametrize("ending", FILMS)
def test_a_film_has_the_colours_of_its_states(tree, ending):
    colours = Image.new("RGB", (SIDE, SIDE), (200, 40, 60))
    colours.paste((30, 90, 200), (0, 0, 64, SIDE))
    record = picture([colours, colours.crop((48, 48, 80, 80)).resize((SIDE, SIDE), 0)], tree)
    film = Film(tree, record, FilmSettings(ending, seconds=0.3, fps=10))
    file = tree.root / f"film.{ending}"
    WRITERS[ending](film, file, 10, 0, lambda: None)
    if ending == "mp4":
        with av.open(str(file)) as container:
            frame = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    else:
        with Image.open(file) as opened:
            frame = np.asarray(opened.convert("RGB")).astype(int)
    for x, colour in ((32, (30, 90, 200)), (96, (200, 40, 60))):
        assert np.abs(frame[40, x] - colour).max() <= 6


def test_a_gif_keeps_a_colour_that_is_rare_in_it(tree):
    """A green eye in brown fur: 1 % of one state, and of no other."""
    browns = [np.random.default_rng(step).normal((150, 110, 70), 25, (SIDE, SIDE, 3)) for step in range(4)]
    browns[0][4:16, 4:16] = (120, 200, 60)
    states = [Image.fromarray(np.clip(brown, 0, 255).astype(np.uint8)) for brown in browns]
    film = Film(tree, picture(states, tree), FilmSettings("gif", fps=10))
    WRITERS["gif"](film, tree.root / "film.gif", 10, 0, lambda: None)
    with Image.open(tree.root / "film.gif") as gif:
        green = np.asarray(gif.convert("RGB"))[6:14, 6:14].astype(int)
    assert np.abs(green.mean((0, 1)) - (120, 200, 60)).max() < 25


# the command


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--video_size", "64x64"), "--video_size only goes with --video"),
        (("--video_back",), "--video_back only goes with --video"),
        (("--video_loop", 0), "--video_loop only goes with --video"),
        (("--video", "mp4", "--video_loop", 2), "an mp4 does not say how often"),
        (("--video", "mp4", "--video_size", "65x64"), "even numbers; take 64x64"),
        (("--video", "gif", "--video_size", "65x8"), "from 16 to 4096"),
        (("--video", "webp", "--video_size", "5000x64"), "from 16 to 4096"),
        (("--video", "gif", "--video_fps", 60), "at most 50 for gif"),
        (("--video", "mp4", "--video_seconds", "nan"), "from 0.1 to 600"),
        (("--video", "mp4", "--video_seconds", 0), "from 0.1 to 600"),
        (("--video", "gif", "--video_loop", 70000), "at most 65535"),
    ],
)
def test_options_of_films_that_cannot_be_meant_are_refused_before_anything_is_done(
    command, tmp_path, options, reason
):
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *RESIZE, *options)
    assert done.code == 2
    assert reason in done.err
    assert not (tmp_path / "out").exists()


def test_a_film_is_kept_until_a_state_is_newer(command, tmp_path, photos):
    run = ("inference_coz", "-i", photos, "-o", tmp_path / "out", *RESIZE, "--video", "gif", *SHORT)
    assert command(*run).code == 0
    films = {name: tmp_path / "out" / "video" / f"{name}.gif" for name in ("scene", "turned")}
    first = {name: film.stat().st_mtime_ns for name, film in films.items()}
    newer = max(first.values()) + 10**9
    os.utime(tmp_path / "out" / "per-sample" / "turned" / "2.png", ns=(newer, newer))
    done = command(*run)
    assert done.code == 0
    assert "2 of 2 films" in done.out
    assert "1 kept as they were" in done.out
    assert films["scene"].stat().st_mtime_ns == first["scene"]
    assert films["turned"].stat().st_mtime_ns > first["turned"]


def test_finished_pictures_get_a_film_and_their_settings_stay_the_same(command, tmp_path):
    run = ("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE)
    assert command(*run).code == 0
    settings = json.loads((tmp_path / "run.json").read_bytes())["settings"]
    assert films_in(tmp_path) == []
    assert command(*run, "--video", "webp", *SHORT).code == 0
    assert films_in(tmp_path) == ["scene.webp"]
    assert json.loads((tmp_path / "run.json").read_bytes())["settings"] == settings


def test_every_spot_has_its_film(command, tmp_path):
    (tmp_path / "spots.csv").write_text("file,x,y,label\nscene.png,0.2,0.2,one\nscene.png,0.8,0.7,two\n")
    spots = ("--regions", tmp_path / "spots.csv")
    done = command(
        "inference_coz", "-i", SCENE, "-o", tmp_path / "out", *RESIZE, *spots, "--video", "gif", *SHORT
    )
    assert done.code == 0, done.err
    assert films_in(tmp_path / "out") == ["scene~one.gif", "scene~two.gif"]


def test_films_are_not_zoomed_into(command, photos):
    run = (
        "inference_coz",
        "-i",
        photos,
        "-o",
        photos,
        "--recursive_folders",
        *RESIZE,
        "--video",
        "gif",
        *SHORT,
    )
    for _ in range(2):
        assert command(*run).code == 0
    assert films_in(photos) == ["scene.gif", "turned.gif"]


def test_a_damaged_state_costs_one_film_and_is_named(command, tmp_path, photos):
    out = tmp_path / "out"
    run = ("inference_coz", "-i", photos, "-o", out, *RESIZE)
    assert command(*run).code == 0
    (out / "per-sample" / "scene" / "2.png").write_bytes(b"no picture")
    done = command(*run, "--video", "gif", *SHORT)
    assert done.code == 1
    assert "failed: film of scene.png: state 2 is gone or damaged" in done.err
    assert films_in(out) == ["turned.gif"]


def test_a_full_disk_keeps_the_film_that_was_there_and_says_what_to_do(command, tmp_path, monkeypatch):
    run = ("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE, "--video", "gif", *SHORT)
    assert command(*run).code == 0
    film = tmp_path / "video" / "scene.gif"
    before = film.read_bytes()

    def full(_frames, file, *_):
        file.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(WRITERS, "gif", full)
    os.utime(film, (0, 0))
    done = command(*run)
    assert done.code == 1
    assert "the disk is full; make room" in done.err
    assert "unexpectedly" not in done.err
    assert film.read_bytes() == before
    assert [file.name for file in film.parent.iterdir()] == ["scene.gif"]


def test_what_a_library_cannot_encode_costs_one_film(command, tmp_path, photos, monkeypatch):
    write = WRITERS["gif"]

    def strange(frames, file, *rest):
        if "scene" in str(frames._name):
            raise ValueError("two\nlines")
        write(frames, file, *rest)

    monkeypatch.setitem(WRITERS, "gif", strange)
    done = command("inference_coz", "-i", photos, "-o", tmp_path, *RESIZE, "--video", "gif", *SHORT)
    assert done.code == 1
    assert "failed: film of scene.png: failed unexpectedly: ValueError: two\n" in done.err
    assert films_in(tmp_path) == ["turned.gif"]


def test_a_plan_says_that_films_are_made(command, tmp_path):
    options = ("--dry_run", "--video", "mp4")
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path / "out", *RESIZE, *options)
    assert f"one mp4 a picture, in {tmp_path / 'out' / 'video'}" in done.out


def test_quiet_films_say_nothing(command, tmp_path):
    done = command("inference_coz", "-i", SCENE, "-o", tmp_path, *RESIZE, "-q", "--video", "gif", *SHORT)
    assert (done.code, done.out, done.err) == (0, "", "")
