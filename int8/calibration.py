"""What quantized parts are calibrated with and measured on: prompts, and pictures with their prompts.

Calibration decides how layer inputs are rounded to 8 bits, so it must look like what the parts will see:
prompts like the extractors' (``calibration_prompts.txt``), pictures like the chain's SR inputs. What a part
is measured on is held out: never calibrated with.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

from errors import InputError, PictureError
from zoom.settings import ChainSettings

HERE = Path(__file__).parent.parent
BUILT_IN = Path(__file__).parent / "calibration_prompts.txt"
SAMPLES = HERE / "samples"
HELD_OUT_PROMPTS = 8
HELD_OUT_PICTURES = 2

T = TypeVar("T")


@dataclass(frozen=True)
class SRInput:
    """A picture as the SR backbone sees it, and the prompt it goes with.

    Attributes:
        file: a finished run's ``K_input.png``, or any picture.
        prompt: the step's prompt.
        ready: whether the file is an SR input already; else one is cut out of it as the chain's first step
            does it.
    """

    file: Path
    prompt: str
    ready: bool

    def read(self) -> Image.Image:
        """Return the SR input, RGB.

        Raises:
            InputError: the file cannot be read, or is too small.
        """
        from results.reading import read_picture
        from zoom.states import first_state, step_input
        from zoom.window import plan_route

        try:
            picture, _ = read_picture(self.file)
            if self.ready:
                return picture
            route = plan_route(ChainSettings(source="shrunk"), picture.size)
            crop = first_state(picture, route).crop(route.steps[0].window.box)
            return step_input(crop, route.steps[0].size).sr_input
        except PictureError as error:
            raise InputError(f"--calibration_data: {self.file} {error}") from None


@dataclass(frozen=True)
class Calibration:
    """Calibration data, and held-out data of the same kind.

    Attributes:
        source: where it comes from, for quantization.json.
        prompts: calibrated with; the first is the empty prompt, which every run without an extractor uses.
        held_out_prompts: measured on; the first is the empty prompt.
        pictures: calibrated with.
        held_out_pictures: measured on.
    """

    source: str
    prompts: list[str]
    held_out_prompts: list[str]
    pictures: list[SRInput]
    held_out_pictures: list[SRInput]

    def describe(self) -> dict[str, object]:
        """Say what it is, for quantization.json."""

        def texts(prompts: Sequence[str]) -> dict[str, object]:
            return {
                "number": len(prompts),
                "sha256": hashlib.sha256("\n".join(prompts).encode()).hexdigest(),
            }

        def files(inputs: Sequence[SRInput]) -> list[str]:
            return [f"{one.file.parent.name}/{one.file.name}" for one in inputs]

        return {
            "source": self.source,
            "prompts": texts(self.prompts),
            "held_out_prompts": texts(self.held_out_prompts),
            "pictures": files(self.pictures),
            "held_out_pictures": files(self.held_out_pictures),
        }


def read_calibration(path: Path | None, samples: int, text_only: bool = False) -> Calibration:
    """Collect calibration data.

    Args:
        path: a text file of prompts (one a line), a folder of pictures, or a finished run's output folder
            (its SR inputs and prompts); None takes the built-in prompts and ``samples/``.
        samples: number of prompts, and of pictures, to calibrate with; fewer where there are not so many.
        text_only: only prompts are wanted of a run.

    Raises:
        InputError: nothing there, or nothing of use in it.
    """
    built_in = read_lines(BUILT_IN)
    prompts, pictures = built_in, None
    if path is not None:
        if path.is_file():
            prompts = read_lines(path)
        elif (path / "per-sample").is_dir():
            pictures = _of_run(path) or None
            if pictures is None and not text_only:
                raise InputError(
                    f"--calibration_data {path}: a run without SR inputs (per-sample/NAME/K_input.png); take"
                    " one of --rec_type recursive or recursive_multiscale, without --save states"
                )
            said = [one.prompt for one in pictures or ()] or _prompts_of_run(path)
            prompts = list(dict.fromkeys(filter(None, said))) or built_in
        elif path.is_dir():
            pictures = _of_folder(path, built_in)
        else:
            raise InputError(f"--calibration_data {path}: no such file or folder")
    held_out, rest = _split(prompts, HELD_OUT_PROMPTS - 1, built_in)
    chosen = _spread(rest, samples - 1)
    # too few prompts would show too little of what the layers can see: built-in ones come along
    more = _spread([one for one in built_in if one not in (*held_out, *rest)], samples - 1 - len(chosen))
    if pictures is None:
        pictures = _of_folder(SAMPLES, built_in)
    held_out_pictures, other_pictures = _split(pictures, HELD_OUT_PICTURES, _of_folder(SAMPLES, built_in))
    return Calibration(
        source=str(path) if path else "built in",
        prompts=["", *chosen, *more],
        held_out_prompts=["", *held_out],
        pictures=_spread(other_pictures, samples),
        held_out_pictures=held_out_pictures,
    )


def read_lines(path: Path) -> list[str]:
    """Read prompts, one a line; InputError where there are none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"--calibration_data {path}: not a text file of prompts in UTF-8") from None
    prompts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not prompts:
        raise InputError(f"--calibration_data {path}: holds no prompt; write one a line")
    return list(dict.fromkeys(prompts))


def _prompts_of_run(folder: Path) -> list[str]:
    from results.joining import known_report

    try:
        report = known_report(folder)
    except InputError as error:
        raise InputError(f"--calibration_data {error}") from None
    pictures = report.pictures.values() if report else ()
    steps = [step for picture in pictures for step in picture.steps]
    return [text or "" for step in steps for text in (step.prompt, *(tile.prompt for tile in step.tiles))]


def _of_run(folder: Path) -> list[SRInput]:
    found = []
    for file in sorted((folder / "per-sample").rglob("*_input.png")):
        step = file.name.removesuffix("_input.png")
        if step.isdecimal() and int(step) > 0:
            text = file.parent / "txt" / f"{int(step) - 1}.txt"
            try:
                prompt = text.read_text(encoding="utf-8").strip() if text.is_file() else ""
            except (OSError, UnicodeDecodeError):
                raise InputError(f"--calibration_data: {text} is no text in UTF-8") from None
            found.append(SRInput(file, prompt, ready=True))
    return found


def _of_folder(folder: Path, prompts: Sequence[str]) -> list[SRInput]:
    from results.pictures import find_pictures

    try:
        sources = find_pictures([folder]).sources
    except InputError:
        raise InputError(f"--calibration_data {folder}: holds no picture that can be read") from None
    return [
        SRInput(source.file, prompts[index * 7 % len(prompts)], ready=False)
        for index, source in enumerate(sources)
    ]


def _split(items: Sequence[T], held_out: int, others: Sequence[T]) -> tuple[list[T], list[T]]:
    """Hold out some of the items, evenly spread; where there are too few, others are measured on."""
    if len(items) < 2 * held_out:
        return _spread([one for one in others if one not in items], held_out), list(items)
    chosen = _spread(items, held_out)
    return chosen, [one for one in items if one not in chosen]


def _spread(items: Sequence[T], number: int) -> list[T]:
    """Return evenly spread items, all of them where there are fewer."""
    if number <= 0:
        return []
    if number >= len(items):
        return list(items)
    return [items[(2 * index + 1) * len(items) // (2 * number)] for index in range(number)]
