"""Spots in a CSV file."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import InputError
from results.spots_file import LONGEST_LABEL, Spot, is_label, read_spots, spots_csv

KNOWN = ["a.png", "sub/b.png"]
# as Python knows them: undecodable bytes of a Linux name are surrogates, and no system has a NUL in a name
FILE_NAMES = st.text(st.characters(exclude_characters="\0\\", categories=None), min_size=1, max_size=30)
FRACTIONS = st.floats(0, 1)
SPOTS = st.lists(
    st.builds(Spot, st.text(max_size=LONGEST_LABEL).filter(is_label), FRACTIONS, FRACTIONS),
    min_size=1,
    max_size=5,
    unique_by=lambda spot: spot.label.casefold(),
)


def read(folder: Path, content: str, known=KNOWN):
    (folder / "spots.csv").write_bytes(content.encode())
    return read_spots(folder / "spots.csv", known)


@settings(deadline=None)  # of a machine that is busy
@given(st.dictionaries(FILE_NAMES, SPOTS, min_size=1, max_size=4))
def test_what_is_written_is_read_back_the_very_same(spots):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "spots.csv")
        file.write_bytes(spots_csv(spots))
        assert read_spots(file, spots.keys()) == spots


@pytest.mark.parametrize(
    "name",
    ["a,b.png", 'say "a".png', "two\nlines.png", "lone\rreturn.png", "b\udcffd.png", r"back\slash.png"],
)
def test_odd_file_names_are_read_back(tmp_path, name):
    spots = {name: [Spot("eye", 0.1, 1 / 3)]}
    (tmp_path / "spots.csv").write_bytes(spots_csv(spots))
    assert read_spots(tmp_path / "spots.csv", [name]) == spots


def test_a_file_name_that_reads_like_spelled_out_bytes_keeps_its_own_spots(tmp_path):
    (tmp_path / "spots.csv").write_bytes(spots_csv({r"b\udcff.png": [Spot("1", 0, 0)]}))
    assert list(read_spots(tmp_path / "spots.csv", ["b\udcff.png", r"b\udcff.png"])) == [r"b\udcff.png"]


def test_columns_may_stand_in_any_order(tmp_path):
    assert read(tmp_path, "label,y, x,file\neye,0.75,0.25,a.png\n") == {"a.png": [Spot("eye", 0.25, 0.75)]}


def test_a_file_saved_by_a_spreadsheet_is_read(tmp_path):
    spots = read(tmp_path, '\ufefffile,x,y\r\n"sub/b.png",0.5, 0.5 \r\n')
    assert spots == {"sub/b.png": [Spot("1", 0.5, 0.5)]}


def test_the_pictures_keep_the_order_of_the_file(tmp_path):
    spots = read(tmp_path, "file,x,y\nsub/b.png,0,0\na.png,0,0\nsub/b.png,1,1\n")
    assert list(spots) == ["sub/b.png", "a.png"]
    assert spots["sub/b.png"] == [Spot("1", 0, 0), Spot("2", 1, 1)]


@pytest.mark.parametrize(
    ("given_labels", "labels"),
    [
        (["", "", ""], ["1", "2", "3"]),
        (["eye", ""], ["eye", "2"]),
        (["", "1", ""], ["2", "1", "4"]),
        (["3", "2", ""], ["3", "2", "4"]),
    ],
)
def test_spots_without_a_label_are_numbered_around_those_that_are_given(tmp_path, given_labels, labels):
    rows = "".join(f"a.png,0,0,{label}\n" for label in given_labels)
    (spots,) = read(tmp_path, f"file,x,y,label\n{rows}").values()
    assert [spot.label for spot in spots] == labels


def test_two_pictures_may_share_a_label(tmp_path):
    assert len(read(tmp_path, "file,x,y,label\na.png,0,0,eye\nsub/b.png,0,0,eye\n")) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "its first line must be file,x,y or file,x,y,label"),
        ("file,x\na.png,0.5\n", "its first line must be"),
        ("file;x;y\na.png;0.5;0.5\n", "its first line must be .* with commas"),
        ("file,x,y,lable\na.png,0,0,eye\n", "its first line must be"),
        ("file,x,y,x\na.png,0,0,0\n", "its first line must be"),
        ("file,x,y\n", "holds no spot; write one"),
        ("file,x,y\na.png,0.5\n", "line 2: 2 values under 3 columns"),
        ("file,x,y\na.png,0,5,0,5\n", "line 2: 5 values under 3 columns"),
        ("file,x,y\na.png,0,0\n\nc.png,0,0\n", "line 4: no picture 'c.png' in --input_image; write its path"),
        ('file,x,y\n"c\nd.png",0,0\n', r"line 3: no picture 'c\\nd.png' in --input_image"),
        ("file,x,y\na.png,left,0\n", "line 2: x must be a number from 0 to 1.* not 'left'"),
        ("file,x,y\na.png,0,\n", "line 2: y must be a number from 0 to 1.* not ''"),
        ("file,x,y\na.png,320,0\n", "line 2: x must be a number from 0 to 1"),
        ("file,x,y\na.png,0,-0.1\n", "line 2: y must be a number from 0 to 1"),
        ("file,x,y\na.png,nan,0\n", "line 2: x must be a number from 0 to 1"),
        ("file,x,y\na.png,0,inf\n", "line 2: y must be a number from 0 to 1"),
        ("file,x,y,label\na.png,0,0,a/b\n", "line 2: 'a/b' cannot be a label.* take at most 64 letters"),
        ("file,x,y,label\na.png,0,0,a~b\n", "line 2: 'a~b' cannot be a label"),
        ("file,x,y,label\na.png,0,0,..\n", r"line 2: '\.\.' cannot be a label"),
        ("file,x,y,label\na.png,0,0,con\n", "line 2: 'con' cannot be a label"),
        ("file,x,y,label\na.png,0,0,eye.png\n", "line 2: 'eye.png' cannot be a label"),
        (f"file,x,y,label\na.png,0,0,{'a' * 65}\n", "line 2: 'aaa.*' cannot be a label"),
        ("file,x,y,label\na.png,0,0,Eye\na.png,1,1,eYE\n", "line 3: label 'eYE' is there a second time"),
        ('file,x,y\n"a.png,0,0\n', "cannot be read as a UTF-8 CSV file"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_with_the_reason(tmp_path, content, reason):
    with pytest.raises(InputError, match=f"^--regions .*{reason}") as refusal:
        read(tmp_path, content)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", "file,x,y\nä.png,0,0\n".encode("latin-1")])
def test_a_file_that_is_not_utf8_is_refused(tmp_path, content):
    (tmp_path / "spots.csv").write_bytes(content)
    with pytest.raises(InputError, match="UTF-8"):
        read_spots(tmp_path / "spots.csv", KNOWN)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--regions .*nowhere\.csv: cannot be read"):
        read_spots(tmp_path / "nowhere.csv", KNOWN)
