"""The table of checkpoints, and the pages that show it."""

import re
from urllib.parse import urlsplit

import pytest
from conftest import ROOT

from checkpoints import catalogue, places
from checkpoints.catalogue import CATALOGUE, GITHUB, how_to_get, of_purpose
from checkpoints.wanted import ckpt_file

FILES = [(one, file) for one in CATALOGUE for file in one.files]
MODELS = [one for one in CATALOGUE if not one.in_ckpt]


def rows(page):
    """The cells of a page's tables, row by row."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_every_entry_is_pinned_to_a_commit_and_every_file_to_a_hash():
    for one in CATALOGUE:
        assert re.fullmatch(r"[0-9a-f]{40}", one.revision)
        assert urlsplit(one.terms).scheme == "https"
    hashes = [file.sha256 for _, file in FILES]
    assert all(re.fullmatch(r"[0-9a-f]{64}", one) for one in hashes)
    assert len(set(hashes)) == len(hashes)


def test_every_file_lies_in_ckpt_at_a_place_of_its_own():
    assert all(file.place.is_relative_to(places.CKPT) for _, file in FILES)
    assert len({file.place for _, file in FILES}) == len(FILES)


def test_what_a_purpose_needs_includes_sd3_and_all_is_everything():
    for purpose in catalogue.PURPOSES:
        assert {catalogue.SD3, catalogue.SR_LORA, catalogue.SR_VAE} <= set(of_purpose(purpose))
    assert set(of_purpose("all")) == set(CATALOGUE)


@pytest.mark.parametrize(
    ("wanted", "purpose"),
    [
        ([catalogue.SR_LORA], "null"),
        ([catalogue.RAM, catalogue.SR_VAE], "dape"),
        ([catalogue.VLM], "vlm"),
        ([catalogue.VLM, catalogue.DAPE], "all"),
    ],
)
def test_the_way_out_brings_no_more_than_it_must(wanted, purpose):
    assert how_to_get(wanted) == f"python download_ckpt.py --for {purpose}"


def test_files_of_github_are_asked_of_github_where_no_mirror_is_named():
    urls = {ckpt_file(one, file).url for one, file in FILES if one.host == GITHUB}
    assert all(url.startswith("https://github.com/") for url in urls)
    lists = "https://github.com/xinyu1205/recognize-anything/raw/7cb804a8609e9f4b1a50b7f31436d2df40bb9481"
    assert f"{lists}/ram/data/ram_tag_list.txt" in urls


def test_the_readme_of_ckpt_shows_every_file_as_the_catalogue_has_it():
    shown = [row for row in rows("ckpt/README.md") if len(row) == 4 and row[0].startswith("`")]
    host = {True: "GitHub", False: "Hugging Face"}
    assert shown == [
        [
            f"`{file.place.relative_to(places.CKPT).as_posix()}`",
            one.what,
            f"{host[one.host == GITHUB]} {one.repository} ({one.revision[:7]}), `{file.path}`",
            file.sha256,
        ]
        for one, file in FILES
    ]


def test_the_readme_of_ckpt_shows_every_model_as_the_catalogue_has_it():
    shown = [row for row in rows("ckpt/README.md") if len(row) == 3 and row[0].startswith("`--")]
    assert shown == [
        [f"`{one.option}`", f"{one.repository} ({one.revision[:7]})", f"{one.about / 1e9:.1f} GB"]
        for one in MODELS
    ]


def test_the_page_on_checkpoints_shows_what_each_is_for_and_its_licence():
    shown = [row for row in rows("docs/checkpoints.md") if row[0] in {one.name for one in CATALOGUE}]
    assert shown == [
        [
            one.name,
            ", ".join(one.purposes) + (" (optional)" if one.optional else ""),
            f"[{one.licence}]({one.terms})" + ("; gated" if one.gated else ""),
            f"[{one.repository}]({one.page})",
        ]
        for one in CATALOGUE
    ]
