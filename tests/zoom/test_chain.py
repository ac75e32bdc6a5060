"""The chain by itself, with an extractor and a backbone of a few lines: it knows both only by protocol."""

from pathlib import Path

import numpy as np
import pytest
from conftest import PARITY
from PIL import Image

from errors import FileRefused, PictureError
from machine.stage_times import StageTimes
from results import output_tree
from results.output_tree import OutputTree
from results.run_report import PictureRecord, StepRecord
from zoom import state_files
from zoom.asking import noise_seed
from zoom.chain import Chain
from zoom.protocols import Prompt
from zoom.settings import KINDS, ChainSettings
from zoom.strip import COLOURS
from zoom.window import plan_route

NAMES = ["a", "b", "c"]


class Tagger:
    """Says how bright a picture is, and of what size its parent is."""

    def __init__(self):
        self.calls = []

    def __call__(self, inputs):
        self.calls.append(len(inputs))
        for one in inputs:
            brightness = int(np.asarray(one.sr_input).mean())
            of = "" if one.parent is None else f" of {int(np.asarray(one.parent).mean())}"
            yield Prompt(f"brightness {brightness}{of}", "tagger")

    def describe(self):
        return {"extractor": "tagger"}


class Noise:
    """Enlarges and adds noise from the seed and the prompt; raises or refuses where it is told to."""

    def __init__(self, refuses=(), raises=()):
        self.refuses, self.raises = refuses, raises
        self.calls = []

    def __call__(self, inputs, prompts, seeds):
        self.calls.append(len(inputs))
        for index, [prompt] in enumerate(prompts):
            if seeds[index] in self.raises:
                raise RuntimeError("the kernel says no\nand more")
            if seeds[index] in self.refuses:
                yield PictureError("output is not finite")
                continue
            generator = np.random.default_rng([seeds[index], len(prompt)])
            seen = np.asarray(inputs[index].sr_input)
            values = seen + generator.integers(-9, 9, seen.shape)
            yield Image.fromarray(values.clip(0, 255).astype(np.uint8))

    def prompt_tiles(self, size):
        """Halves, left and right."""
        return [(0, 0, size[0] // 2, size[1]), (size[0] // 2, 0, *size)]

    def describe(self):
        return {"backbone": "noise"}


@pytest.fixture
def records(tmp_path):
    made = []
    for index, name in enumerate(NAMES):
        values = np.random.default_rng(index).integers(0, 255, (80, 100, 3))
        file = tmp_path / f"{name}.png"
        Image.fromarray(values.astype(np.uint8)).save(file)
        made.append(PictureRecord(name, file.name, str(file)))
    return made


def run(out: Path, records, backbone=None, extractor=None, group_size=1, fixed=None, **settings):
    settings = ChainSettings(**{"rec_num": 2, "process_size": (64, 64), **settings})
    times = StageTimes()
    tree = OutputTree(out)
    tree.prepare()
    chain = Chain(settings, tree, extractor or Tagger(), backbone or Noise(), times, fixed)
    for _ in chain.run(records, group_size):
        pass
    return tree


def states(tree: OutputTree, name: str) -> list[bytes]:
    return [tree.state(name, k).read_bytes() for k in range(3) if tree.state(name, k).exists()]


def test_prompts_and_sr_go_stage_by_stage_over_a_group(tmp_path, records):
    extractor, backbone = Tagger(), Noise()
    run(tmp_path / "out", records, backbone, extractor, group_size=3)
    assert extractor.calls == [3, 3]
    assert backbone.calls == [3, 3]


def test_groups_go_one_after_the_other(tmp_path, records):
    backbone = Noise()
    run(tmp_path / "out", records, backbone, group_size=2)
    assert backbone.calls == [2, 2, 1, 1]


@pytest.mark.parametrize("group_size", [1, 2, 3])
def test_pixels_depend_neither_on_order_nor_on_neighbours_nor_on_group_size(tmp_path, records, group_size):
    alone = {}
    for record in records:
        tree = run(tmp_path / record.name, [PictureRecord(record.name, record.label, record.file)])
        alone[record.name] = states(tree, record.name)
    together = run(tmp_path / "out", records[::-1], group_size=group_size)
    assert {name: states(together, name) for name in NAMES} == alone


def test_the_chain_tells_every_picture_that_has_come_on(tmp_path, records):
    settings = ChainSettings(rec_num=2, process_size=(64, 64))
    backbone = Noise(refuses=[noise_seed(42, "b.png", 2)])
    chain = Chain(settings, OutputTree(tmp_path / "out"), Tagger(), backbone, StageTimes())
    told = [
        (picture.name, step, picture.status, picture.steps_done) for picture, step in chain.run(records[:2])
    ]
    assert told == [
        ("a", 0, "started", 0),
        ("a", 1, "started", 0),  # has its prompt
        ("a", 1, "started", 1),
        ("a", 2, "started", 1),
        ("a", 2, "started", 2),
        ("a", 2, "done", 2),
        ("b", 0, "started", 0),
        ("b", 1, "started", 0),
        ("b", 1, "started", 1),
        ("b", 2, "started", 1),
        ("b", 2, "failed", 1),
    ]


def test_the_extractor_the_backbone_and_the_saved_file_have_one_and_the_same_sr_input(tmp_path, records):
    seen = []

    class Watching(Tagger):
        def __call__(self, inputs):
            seen.extend(one.sr_input for one in inputs)
            yield from super().__call__(inputs)

    class Repainting(Noise):
        def __call__(self, inputs, prompts, seeds):
            seen.extend(one.sr_input for one in inputs)
            yield from super().__call__(inputs, prompts, seeds)

    tree = run(tmp_path / "out", records[:1], Repainting(), Watching(), rec_num=1)
    asked, enlarged = seen
    assert asked is enlarged
    with Image.open(tree.sr_input("a", 1, from_first_state=False)) as saved:
        assert np.array_equal(np.asarray(saved), np.asarray(asked))


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_never_decoded_again(tmp_path, records, kind, monkeypatch):
    decoded = []

    def counting(file, side):
        decoded.append(file.name)
        return read_state(file, side)

    read_state = state_files.read_state
    for module in (state_files, output_tree):
        monkeypatch.setattr(module, "read_state", counting)
    run(tmp_path / "out", records[:1], rec_type=kind)
    assert decoded == []


def test_a_picture_whose_file_is_open_elsewhere_fails_and_the_others_go_on(tmp_path, records, monkeypatch):
    write = OutputTree.write

    def held(self, content, *files):
        if files[-1].name == "2.png" and files[-1].parent.name == "b":
            raise FileRefused(f"{files[-1]}: is open in another program")
        write(self, content, *files)

    monkeypatch.setattr(OutputTree, "write", held)
    run(tmp_path / "out", records, group_size=3)
    assert [record.status for record in records] == ["done", "failed", "done"]
    assert "open in another program" in records[1].failure


def test_windows_of_an_earlier_report_that_are_not_this_chains_are_not_followed(tmp_path, records):
    tree = run(tmp_path / "out", records[:1])
    before = states(tree, "a")
    records[0].status = "started"
    records[0].steps[1].window = (0, 0, 16, 16)
    backbone = Noise()
    run(tmp_path / "out", records[:1], backbone)
    assert backbone.calls == [1, 1], "made again from the picture on"
    assert states(tree, "a") == before


def test_a_report_that_lies_about_a_pictures_size_is_not_followed_out_of_the_picture(tmp_path, records):
    Image.effect_noise((400, 300), 40).save(records[0].file)
    tree = run(tmp_path / "out", records[:1])
    before = states(tree, "a")
    route = plan_route(ChainSettings(rec_num=2, process_size=(64, 64)), (4000, 3000))
    records[0].status, records[0].size = "started", (4000, 3000)
    for record, step in zip(records[0].steps, route.steps, strict=True):
        record.window = (step.window.left, step.window.top, step.window.width, step.window.height)
        record.view, record.made, record.window_of = step.view.numbers, step.made, step.window_of
        record.done = False
    run(tmp_path / "out", records[:1])
    assert records[0].size == (400, 300)
    assert states(tree, "a") == before


def test_a_report_of_a_size_that_could_not_be_zoomed_into_is_not_trusted(tmp_path, records):
    tree = run(tmp_path / "out", records[:1])
    before = states(tree, "a")
    records[0].status, records[0].size = "started", (1, 1)
    run(tmp_path / "out", records[:1])
    assert (records[0].status, states(tree, "a")) == ("done", before)


def test_the_bar_says_where_state_0_itself_was_enlarged(tmp_path, records):
    tree = run(tmp_path / "out", records[:1], rec_type="bicubic", process_size=(128, 128))
    with Image.open(tree.strip("a")) as strip:
        assert strip.getpixel((5, strip.height - 1)) == COLOURS["enlarged"]


def test_prompts_of_tiles_that_are_not_these_are_asked_for_again(tmp_path, records):
    run(tmp_path / "out", records[:1], None, tile_prompts="tile", full_image=True, rec_num=1)
    records[0].status, records[0].steps[0].done = "started", False
    records[0].steps[0].tiles[0].box = (0, 0, 1, 1)
    extractor = Tagger()
    run(tmp_path / "out", records[:1], None, extractor, tile_prompts="tile", full_image=True, rec_num=1)
    assert extractor.calls == [2]


def test_noise_has_its_own_seed_for_every_picture_step_and_run():
    seeds = {noise_seed(s, name, k) for s in (1, 2) for name in ("a.png", "b.png", "ä.png") for k in (1, 2)}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert noise_seed(1, "ä.png", 1) == noise_seed(1, "a\u0308.png", 1), "macOS decomposes file names"


def test_recursive_multiscale_shows_the_extractor_the_whole_state_and_the_others_do_not(tmp_path, records):
    tree = run(tmp_path / "multi", records[:1])
    assert " of " in tree.prompt("a", 1).read_text()
    for kind in ("recursive", "onestep"):
        records[0].steps.clear()
        tree = run(tmp_path / kind, records[:1], rec_type=kind)
        assert " of " not in tree.prompt("a", 1).read_text()


def test_the_users_words_are_joined_as_published(tmp_path, records):
    tree = run(tmp_path / "out", records[:1], rec_type="recursive", prompt="a cat")
    assert tree.prompt("a", 1).read_text() == f"{records[0].steps[0].extracted}, a cat,"


def test_fixed_prompts_are_used_whole_and_the_extractor_is_asked_for_the_rest(tmp_path, records):
    extractor = Tagger()
    fixed = {("a.png", 1, 0): "mine", ("b.png", 1, 0): "", ("b.png", 2, 0): "yours"}
    run(tmp_path / "out", records, None, extractor, 3, fixed, prompt="user")
    assert records[0].steps[0].prompt == "mine"
    assert [step.prompt for step in records[1].steps] == ["", "yours"]
    assert [step.extractor for step in records[1].steps] == ["file", "file"]
    assert extractor.calls == [1, 2], "c at step 1; a and c at step 2"


def test_a_picture_that_the_backbone_refuses_fails_with_the_reason_and_the_others_go_on(tmp_path, records):
    backbone = Noise(refuses=[noise_seed(42, "b.png", 2)])
    tree = run(tmp_path / "out", records, backbone, group_size=3)
    assert [record.status for record in records] == ["done", "failed", "done"]
    assert records[1].failure == "output is not finite"
    assert len(states(tree, "b")) == 2, "state 1 is kept"


@pytest.mark.parametrize("culprit", NAMES)
def test_a_backbone_that_raises_in_a_batch_fails_only_the_picture_at_fault(tmp_path, records, culprit):
    backbone = Noise(raises=[noise_seed(42, f"{culprit}.png", 1)])
    run(tmp_path / "out", records, backbone, group_size=3)
    assert {record.name: record.status for record in records} == {
        name: "failed" if name == culprit else "done" for name in NAMES
    }
    failure = next(record.failure for record in records if record.name == culprit)
    assert failure == "failed unexpectedly: RuntimeError: the kernel says no"


def test_an_unreadable_picture_fails_and_the_others_go_on(tmp_path, records):
    Path(records[0].file).write_bytes(b"")
    run(tmp_path / "out", records, group_size=3)
    assert [record.status for record in records] == ["failed", "done", "done"]


def test_a_damaged_state_is_made_again_together_with_all_after_it(tmp_path, records):
    tree = run(tmp_path / "out", records[:1])
    before = states(tree, "a")
    tree.state("a", 1).write_bytes(b"damaged")
    tree.collected_strip("a").unlink()
    backbone = Noise()
    run(tmp_path / "out", records[:1], backbone)
    assert backbone.calls == [1, 1]
    assert states(tree, "a") == before


@pytest.mark.parametrize(
    "lost", ["per-sample/a/0.png", "per-sample/a/1.png", "per-scale/scale2/a.png", "recursive/a.png"]
)
def test_a_lost_file_of_a_finished_picture_is_made_again(tmp_path, records, lost):
    run(tmp_path / "out", records[:1])
    before = (tmp_path / "out" / lost).read_bytes()
    (tmp_path / "out" / lost).unlink()
    run(tmp_path / "out", records[:1])
    assert (tmp_path / "out" / lost).read_bytes() == before


def test_a_state_that_vanishes_while_its_step_runs_fails_the_picture_alone(tmp_path, records):
    class Thief(Noise):
        def __call__(self, inputs, prompts, seeds):
            yield from super().__call__(inputs, prompts, seeds)
            (tmp_path / "out" / "per-sample" / "a" / "1.png").unlink(missing_ok=True)

        def describe(self):
            return {}

    run(tmp_path / "out", records, Thief(), group_size=3)
    assert [record.status for record in records] == ["failed", "done", "done"]
    assert "state 1 is gone or damaged" in records[0].failure


def test_a_state_without_a_record_is_made_again(tmp_path, records):
    """What a killed run did after its last report is not trusted."""
    tree = run(tmp_path / "out", records[:1])
    before = states(tree, "a")
    record = records[0].steps[1]
    records[0].steps[1] = StepRecord(*record.plan)
    records[0].status = "started"
    backbone = Noise()
    run(tmp_path / "out", records[:1], backbone)
    assert backbone.calls == [1], "step 2 alone"
    assert states(tree, "a") == before


def test_a_prompt_that_an_earlier_run_asked_for_is_not_asked_again(tmp_path, records):
    run(tmp_path / "out", records[:1], Noise(refuses=[noise_seed(42, "a.png", 1)]))
    extractor = Tagger()
    run(tmp_path / "out", records[:1], None, extractor)
    assert extractor.calls == [1], "only step 2"


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_writes_the_published_tree(tmp_path, kind):
    """Run 0, 1, 2, 3 and 4 of the parity data: the same files, no more and no less."""
    (folder,) = (PARITY / "expected").glob(f"[0-4]_{kind}_nofix")
    inputs = [
        PictureRecord(name, f"{name}.png", str(PARITY / "input" / f"{name}.png"))
        for name in ("scene", "turned")
    ]
    rec_num = 2 if kind == "onestep" else 3
    tree = run(
        tmp_path,
        inputs,
        group_size=2,
        rec_type=kind,
        rec_num=rec_num,
        process_size=(128, 128),
        source="shrunk",
    )
    published = {path.relative_to(folder) for path in folder.rglob("*.*")}
    for name in ("scene", "turned"):  # kept in tests/data for two of the runs only, to save space
        published |= {Path(f"per-scale/scale{k}/{name}.png") for k in range(rec_num + 1)}
        published |= {Path(f"recursive/{name}.png")}
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")} == published
    assert tree.root == tmp_path


@pytest.mark.parametrize("folder", ["0_nearest_nofix", "1_bicubic_nofix"])
def test_kinds_that_only_resize_equal_the_published_pictures_in_every_pixel(tmp_path, folder):
    kind = folder.split("_")[1]
    inputs = [
        PictureRecord(name, name, str(PARITY / "input" / f"{name}.png")) for name in ("scene", "turned")
    ]
    run(tmp_path, inputs, rec_type=kind, rec_num=3, process_size=(128, 128), source="shrunk")
    for name in ("scene", "turned"):
        for file in ("0.png", "1.png", "2.png", "3.png", f"{name}.png"):
            place = f"per-sample/{name}/{file}"
            with (
                Image.open(tmp_path / place) as ours,
                Image.open(PARITY / "expected" / folder / place) as theirs,
            ):
                assert np.array_equal(np.asarray(ours), np.asarray(theirs)), place


@pytest.mark.parametrize(
    ("folder", "settings"),
    [
        ("2_onestep_nofix", {"rec_type": "onestep"}),
        ("3_recursive_nofix", {"rec_type": "recursive"}),
        ("4_recursive_multiscale_nofix", {}),
        ("5_recursive_wavelet", {"rec_type": "recursive", "upscale": 2}),
        ("6_recursive_adain", {"rec_type": "recursive"}),
    ],
)
def test_state_0_and_the_sr_input_equal_the_published_pictures_in_every_pixel(tmp_path, folder, settings):
    inputs = [
        PictureRecord(name, name, str(PARITY / "input" / f"{name}.png")) for name in ("scene", "turned")
    ]
    run(tmp_path, inputs, rec_num=1, process_size=(128, 128), source="shrunk", **settings)
    sr_input = "0_input_for_1.png" if folder.startswith("2") else "1_input.png"
    for name in ("scene", "turned"):
        for file in ("0.png", sr_input):
            place = f"per-sample/{name}/{file}"
            with (
                Image.open(tmp_path / place) as ours,
                Image.open(PARITY / "expected" / folder / place) as theirs,
            ):
                assert np.array_equal(np.asarray(ours), np.asarray(theirs)), place


# The whole picture

WHOLE = {"full_image": True, "rec_num": 1}


def test_each_tile_of_a_whole_picture_has_its_own_prompt_from_what_it_shows_and_the_whole(tmp_path, records):
    seen = []

    class Watching(Tagger):
        def __call__(self, inputs):
            seen.extend(inputs)
            yield from super().__call__(inputs)

    tree = run(tmp_path / "out", records[:1], None, Watching(), tile_prompts="tile", prompt="grey", **WHOLE)
    [step] = records[0].steps
    assert [tile.box for tile in step.tiles] == [(0, 0, 200, 320), (200, 0, 400, 320)]
    assert [one.sr_input.size for one in seen] == [(200, 320)] * 2
    assert {one.parent.size for one in seen} == {(72, 57)}, "the whole picture, as small as a state"
    assert all(tile.prompt == f"{tile.extracted}, grey," for tile in step.tiles)
    assert step.prompt is None
    assert tree.prompt("a", 1).read_text().splitlines() == [tile.prompt for tile in step.tiles]


def test_the_backbone_gets_the_prompts_of_all_tiles_or_one_for_the_picture(tmp_path, records):
    given = []

    class Listening(Noise):
        def __call__(self, inputs, prompts, seeds):
            given.extend(prompts)
            yield from (one.sr_input for one in inputs)

    run(tmp_path / "tile", records[:1], Listening(), tile_prompts="tile", **WHOLE)
    run(tmp_path / "picture", records[1:2], Listening(), tile_prompts="picture", **WHOLE)
    assert [len(prompts) for prompts in given] == [2, 1]


def test_a_prompt_of_the_file_is_a_tiles_own_or_that_of_all(tmp_path, records):
    extractor = Tagger()
    fixed = {("a.png", 1, 0): "all", ("a.png", 1, 2): "right"}
    run(tmp_path / "out", records[:1], None, extractor, fixed=fixed, tile_prompts="tile", **WHOLE)
    assert [tile.prompt for tile in records[0].steps[0].tiles] == ["all", "right"]
    assert extractor.calls == []


def test_tiles_that_an_earlier_run_asked_about_are_not_asked_again(tmp_path, records):
    class Refusing(Noise):
        def __call__(self, inputs, prompts, seeds):
            yield from [PictureError("no")] * len(inputs)

    run(tmp_path / "out", records[:1], Refusing(), tile_prompts="tile", **WHOLE)
    assert records[0].failed
    extractor = Tagger()

    class Enlarging(Noise):
        def __call__(self, inputs, prompts, seeds):
            yield from (one.sr_input for one in inputs)

    run(tmp_path / "out", records[:1], Enlarging(), extractor, tile_prompts="tile", **WHOLE)
    assert records[0].status == "done"
    assert extractor.calls == []


def test_a_tile_that_cannot_be_asked_about_fails_its_picture_alone(tmp_path, records):
    class Shy(Tagger):
        def __call__(self, inputs):
            for one in inputs:
                dark = np.asarray(one.parent).mean() < np.asarray(one.sr_input).mean()
                yield PictureError("says nothing") if dark else Prompt("fur", "tagger")

    run(tmp_path / "out", records[:1], None, Shy(), tile_prompts="tile", **WHOLE)
    assert records[0].failure == "says nothing"


# What is said of the states


def test_a_state_that_keeps_to_its_crop_is_told_from_one_that_does_not(tmp_path, records):
    class Faithful(Noise):
        def __call__(self, inputs, prompts, seeds):
            yield from (one.sr_input for one in inputs)

    run(tmp_path / "faithful", records[:1], Faithful())
    run(tmp_path / "noisy", records[1:2], Noise())
    faithful, noisy = (record.steps[0] for record in records[:2])
    assert faithful.consistency > noisy.consistency > 10
    assert noisy.texture > faithful.texture


def test_only_the_first_network_of_a_chain_is_told_that_it_sees_a_photograph(tmp_path, records):
    told = []

    class Listening(Noise):
        def __call__(self, inputs, prompts, seeds):
            told.append([one.first for one in inputs])
            yield from super().__call__(inputs, prompts, seeds)

    Image.effect_noise((400, 300), 40).save(records[1].file)  # its first step is real
    run(tmp_path / "out", records[:2], Listening(), group_size=2, rec_num=3)
    assert [step.made for step in records[1].steps] == ["real", "enlarged", "invented"]
    assert told == [[True], [False, True], [False, False]]


# Texture


class Faithful(Noise):
    """Only resizes, as a network that copies what is there."""

    def __call__(self, inputs, prompts, seeds):
        self.calls.append(len(inputs))
        yield from (one.sr_input for one in inputs)


def rough(record) -> None:
    values = np.random.default_rng(5).normal(128, 30, (64, 64, 3))
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(record.file)


def test_texture_goes_into_what_the_backbone_gets_from_its_second_step_on(tmp_path, records):
    rough(records[0])
    plain = run(tmp_path / "plain", records[:1], Faithful(), rec_num=3)
    flat = [np.asarray(Image.open(plain.state("a", k))) for k in range(4)]
    records[0].steps.clear()
    records[0].status = "pending"
    textured = run(tmp_path / "textured", records[:1], Faithful(), rec_num=3, texture=1.0)
    states_ = [np.asarray(Image.open(textured.state("a", k))) for k in range(4)]
    assert np.array_equal(flat[0], states_[0])
    assert np.array_equal(flat[1], states_[1]), "a photograph has its own"
    assert not np.array_equal(flat[2], states_[2])
    with (
        Image.open(textured.sr_input("a", 2, False)) as seen,
        Image.open(plain.sr_input("a", 2, False)) as before,
    ):
        assert np.array_equal(np.asarray(seen), np.asarray(before)), "the extractor sees none of it"


def test_a_textured_chain_that_was_interrupted_goes_on_to_the_same_pixels(tmp_path, records):
    rough(records[0])
    tree = run(tmp_path / "out", records[:1], Faithful(), rec_num=3, texture=1.0)
    before = [tree.state("a", k).read_bytes() for k in range(4)]
    for kept in (0, 1, 2):
        records[0].status = "started"
        for step in records[0].steps[kept:]:
            step.done = False
        run(tmp_path / "out", records[:1], Faithful(), rec_num=3, texture=1.0)
        assert [tree.state("a", k).read_bytes() for k in range(4)] == before
