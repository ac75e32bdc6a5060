"""Names that keep apart and hold on every system, and writes that are never half done."""

import errno
import os
from pathlib import Path, PureWindowsPath

import pytest
from PIL import Image

from errors import FileRefused, InputError, OutputError
from results.output_tree import FILMS, OutputTree, assign_names, is_name, safe_name
from results.pictures import Source
from results.png import read_state


def names(*labels: str, taken: dict[tuple[str, str], str] | None = None) -> list[str]:
    sources = [Source(Path("/pictures") / label, label) for label in labels]
    assigned = assign_names(sources, taken or {})
    return [assigned[source] for source in sources]


@pytest.mark.parametrize(
    "name", ["scene", "Ünïcödé 写真", "two words", "[brackets] (and) {more}", "v1.2.final", "UPPER"]
)
def test_a_stem_that_every_system_accepts_is_kept(name):
    assert names(f"{name}.JPG") == [name]


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("a:b", "a_b"),
        ('what?"', "what__"),
        ("tab\there", "tab_here"),
        ("CON", "_CON"),
        ("com1.old", "_com1.old"),
        ("nul .old", "_nul .old"),
        ("lpt\xb3", "_lpt\xb3"),
        ("conin$", "_conin$"),
        ("end.", "end"),
        ("...", "_"),
        ("caf\udce9", "caf_"),
        ("a.png", "a_png"),
    ],
)
def test_what_windows_refuses_is_replaced(stem, name):
    assert safe_name(stem) == name


def test_an_overlong_name_is_cut_and_stays_unique():
    one, two = safe_name("ä" * 140 + "1"), safe_name("ä" * 140 + "2")
    assert len(one.encode()) <= 200
    assert one != two


@pytest.mark.parametrize(
    "stem", ["CON", "com\xb9", "NUL .v2", "end. ", "a" * 300, "\U0001f600" * 90, "x:y", "?" * 250]
)
def test_results_can_be_copied_to_windows(stem):
    (name,) = names(f"{stem}.png")
    strip = PureWindowsPath("C:/Users/somebody/Pictures/zooms/per-sample") / name / f"{name}.png"
    assert not strip.is_reserved()
    assert len(str(strip).encode("utf-16-le")) // 2 < 260
    assert strip.parts[-2:] == (name, f"{name}.png"), "nothing in it leads elsewhere"
    assert not name.endswith((".", " "))


def test_a_longer_name_that_an_earlier_run_gave_stays():
    earlier = "a" * 150
    assert names(f"{earlier}.png", taken={(f"/pictures/{earlier}.png", ""): earlier}) == [earlier]
    assert is_name(earlier)


def test_pictures_of_one_stem_keep_apart():
    assert names("a.png", "a.jpg", "b.png") == ["a_png", "a_jpg", "b"]


def test_stems_that_differ_only_in_case_keep_apart_for_file_systems_that_fold_it():
    first, second = names("Photo.png", "photo.jpg")
    assert first.lower() != second.lower()


def test_stems_of_one_ending_in_two_folders_keep_apart():
    sources = [Source(Path(f"/{folder}/a.png"), "a.png") for folder in "xy"]
    assigned = assign_names(sources, {})
    assert len(set(assigned.values())) == 2


@pytest.mark.parametrize("stem", ["0", "4", "1_input", "0_input_for_2", "txt"])
def test_a_picture_named_like_a_state_does_not_overwrite_it(stem):
    assert names(f"{stem}.png") == [f"{stem}_png"]


def test_folders_inside_folders_are_kept():
    assert names("x/a.png", "x/y/a.png", "a.png") == ["x/a", "x/y/a", "a"]


def test_spots_of_a_picture_have_their_label_behind_its_name():
    source = Source(Path("/pictures/x/a.png"), "x/a.png")
    spots = [source.at("eye", (0.1, 0.2)), source.at("2", (0.5, 0.5))]
    assert list(assign_names(spots, {}).values()) == ["x/a~eye", "x/a~2"]


def test_a_spot_and_a_picture_of_the_same_name_are_told_apart():
    sources = [Source(Path("/p/a.png"), "a.png").at("b", (0, 0)), Source(Path("/p/a~b.jpg"), "a~b.jpg")]
    assert list(assign_names(sources, {}).values()) == ["a_png~b", "a~b_jpg"]


def test_a_name_given_by_an_earlier_run_stays_when_a_namesake_arrives():
    assert names("a.jpg", "a.png", taken={("/pictures/a.png", ""): "a"}) == ["a_jpg", "a"]


def test_names_do_not_depend_on_the_order():
    labels = ["a.png", "a.jpg", "A.gif", "0.png", "x/a.png"]
    assert dict(zip(labels, names(*labels), strict=True)) == dict(
        zip(reversed(labels), names(*reversed(labels)), strict=True)
    )


def test_a_full_disk_leaves_no_half_written_file_and_says_what_to_do(tmp_path, monkeypatch):
    def full(self, content):
        self.open("wb").write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk is full; make room"):
        OutputTree(tmp_path).write(b"content", tmp_path / "folder" / "file.png")
    assert list((tmp_path / "folder").iterdir()) == []


@pytest.mark.parametrize(
    ("windows", "error"),
    [
        (False, OSError(errno.ENAMETOOLONG, "File name too long")),
        (True, FileNotFoundError(errno.ENOENT, "No such")),
    ],
)
def test_a_path_that_is_too_long_costs_its_picture_alone(tmp_path, monkeypatch, windows, error):
    """Windows says of such a path that there is no such file."""

    def refuse(self, *_, **__):
        raise error

    file = tmp_path / ("folder" * 40) / "file.png"
    monkeypatch.setattr("results.folder.WINDOWS", windows)
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(FileRefused, match="the path is too long here; shorten --output_dir"):
        OutputTree(tmp_path).write(b"content", file)


def test_a_write_that_fails_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    tree, file = OutputTree(tmp_path), tmp_path / "run.json"
    tree.write(b"old", file)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "I/O error")))
    with pytest.raises(OutputError):
        tree.write(b"new", file)
    assert file.read_bytes() == b"old"


def test_files_of_one_content_are_one_file_on_the_disk_and_the_last_comes_last(tmp_path, monkeypatch):
    tree, come = OutputTree(tmp_path), []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, place: (come.append(place), replace(self, place)))
    files = [tree.per_scale("a", 1), tree.strip("a"), tree.state("a", 1)]
    tree.write(b"state", *files)
    assert come == files
    assert len({file.stat().st_ino for file in files}) == 1
    assert len(list(tmp_path.rglob("*.*"))) == 3, "no other name is left"


def test_a_write_changes_one_name_and_not_what_others_stand_for(tmp_path):
    tree = OutputTree(tmp_path)
    state, copy = tree.state("a", 1), tree.per_scale("a", 1)
    tree.write(b"old", copy, state)
    tree.write(b"new", state)
    assert (state.read_bytes(), copy.read_bytes()) == (b"new", b"old")
    tree.write(b"newer", copy, state)
    assert (state.read_bytes(), copy.read_bytes()) == (b"newer", b"newer")


def test_a_result_is_not_written_through_a_link_that_stands_in_its_place(tmp_path):
    tree, mine = OutputTree(tmp_path / "out"), tmp_path / "mine.png"
    mine.write_bytes(b"mine")
    state, copy = tree.state("a", 1), tree.per_scale("a", 1)
    for file in (state, copy):
        file.parent.mkdir(parents=True)
    state.symlink_to(mine)
    copy.hardlink_to(mine)
    tree.write(b"state", copy, state)
    assert (state.read_bytes(), copy.read_bytes(), mine.read_bytes()) == (b"state", b"state", b"mine")


def test_where_links_are_refused_files_are_copied(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    tree = OutputTree(tmp_path)
    state, copy = tree.state("a", 1), tree.per_scale("a", 1)
    tree.write(b"state", copy, state)
    assert (state.read_bytes(), copy.read_bytes()) == (b"state", b"state")
    assert not state.samefile(copy)


def test_a_copy_that_cannot_be_written_leaves_no_state_that_counts_as_complete(tmp_path, monkeypatch):
    tree = OutputTree(tmp_path)
    state, copy = tree.state("a", 1), tree.per_scale("a", 1)
    copy.parent.parent.mkdir()
    copy.parent.write_bytes(b"in its way")
    with pytest.raises(FileRefused):
        tree.write(b"state", copy, state)
    assert not state.exists()


@pytest.mark.posix
def test_new_files_may_be_read_by_whom_the_system_says(tmp_path):
    before = os.umask(0o027)
    try:
        OutputTree(tmp_path).write(b"x", tmp_path / "file.png")
    finally:
        os.umask(before)
    assert (tmp_path / "file.png").stat().st_mode & 0o777 == 0o640


def test_only_after_a_killed_run_there_is_something_to_sweep_up(tmp_path):
    with OutputTree(tmp_path).lock() as entered:
        assert not entered.was_killed
    (tmp_path / ".lock").touch()
    with OutputTree(tmp_path).lock() as entered:
        assert entered.was_killed
    with OutputTree(tmp_path).lock() as entered:
        assert not entered.was_killed


def test_what_a_killed_run_was_writing_is_swept_up(tmp_path):
    folder = tmp_path / "per-sample" / "a"
    folder.mkdir(parents=True)
    (folder / ".writing-abc.part").write_bytes(b"half")
    (folder / "mine.part").write_bytes(b"not ours")
    OutputTree(tmp_path).sweep()
    assert [file.name for file in folder.iterdir()] == ["mine.part"]


def test_removing_a_picture_leaves_pictures_inside_its_folder_and_files_of_others(tmp_path):
    tree = OutputTree(tmp_path)
    for name in ("a", "a/b"):
        tree.write_image(
            Image.new("RGB", (8, 8)), tree.state(name, 0), tree.strip(name), tree.per_scale(name, 0)
        )
        tree.write(b"cat", tree.prompt(name, 1))
    tree.write(b"mine", tmp_path / "per-sample" / "a" / "notes.md")
    kept = {file for file in tmp_path.rglob("*.*") if "b" in file.relative_to(tmp_path).as_posix()}
    tree.remove(["a"])
    assert set(tmp_path.rglob("*.*")) == kept | {tmp_path / "per-sample" / "a" / "notes.md"}


def test_removing_a_picture_removes_its_films_and_no_other(tmp_path):
    tree = OutputTree(tmp_path)
    for name in ("a", "ab", "a/b"):
        for ending in FILMS:
            tree.write(b"film", tree.film(name, ending))
    tree.remove(["a"])
    left = {file.relative_to(tmp_path / "video").as_posix() for file in tmp_path.rglob("*.*")}
    assert left == {f"{name}.{ending}" for name in ("ab", "a/b") for ending in FILMS}


def test_films_are_not_removed_through_a_link(tmp_path):
    tree, elsewhere = OutputTree(tmp_path / "out"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.mp4").write_bytes(b"mine")
    tree.root.mkdir()
    (tree.root / "video").symlink_to(elsewhere)
    with pytest.raises(OutputError, match="a link leads it out"):
        tree.remove(["a"])
    with pytest.raises(OutputError, match="a link leads it out"), tree.writing(tree.film("a", "mp4")):
        pass
    assert [file.read_bytes() for file in elsewhere.iterdir()] == [b"mine"]


def test_what_is_written_piece_by_piece_is_there_whole_or_not_at_all(tmp_path):
    tree = OutputTree(tmp_path)
    film = tree.film("a", "gif")

    def killed():
        with tree.writing(film) as file:
            file.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert list(film.parent.iterdir()) == []
    with tree.writing(film) as file:
        file.write_bytes(b"whole")
        assert not film.exists()
    assert film.read_bytes() == b"whole"


def test_what_a_killed_run_left_of_a_film_is_swept_up(tmp_path):
    tree = OutputTree(tmp_path)
    tree.write(b"film", tree.film("x/a", "mp4"))
    (tmp_path / "video" / "x" / ".writing-abc.part").write_bytes(b"half")
    tree.sweep()
    assert [file.name for file in (tmp_path / "video" / "x").iterdir()] == ["a.mp4"]


def test_two_runs_cannot_write_into_one_folder(tmp_path):
    tree = OutputTree(tmp_path)
    with tree.lock() as entered:
        entered.begun()
        with pytest.raises(InputError, match="another run"), OutputTree(tmp_path).lock():
            pass


def test_a_state_that_is_damaged_or_of_another_size_counts_as_missing(tmp_path):
    file = tmp_path / "1.png"
    Image.new("RGB", (64, 64)).save(file)
    assert read_state(file, (64, 64)) is not None
    assert read_state(file, (128, 128)) is None
    file.write_bytes(file.read_bytes()[:60])
    assert read_state(file, (64, 64)) is None
