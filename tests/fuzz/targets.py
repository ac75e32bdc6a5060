"""What damaged files are given to: every reader of this program, through to where the file is used up.

Each target takes a folder to work in and a seed, damages one file, and reads it. A reader may find the file
good, or say in one line of at most 300 characters what is wrong with it; whatever else it does is a finding.
"""

import atexit
import io
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from dng import dng
from PIL import Image

from command.console import printable, shortened
from errors import InputError, PictureError
from fuzz.mutate import damaged

DATA = Path(__file__).parent.parent / "data" / "parity"
SR = (DATA / "SR_LoRA" / "model_20001.pkl", DATA / "SR_VAE" / "vae_encoder_20001.pt")
LISTS = (DATA / "RAM" / "ram_tag_list.txt", DATA / "RAM" / "ram_tag_list_threshold.txt")
Target = Callable[[Path, random.Random], None]


def with_one_damaged(source: Path, folder: Path, dice: random.Random) -> Path:
    """Lay links to a model's files into a folder, one of them damaged; return that one."""
    files = sorted(file for file in source.rglob("*") if file.is_file())
    chosen = dice.choice(files)
    for file in files:
        place = folder / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file == chosen:
            place.write_bytes(damaged(file.name, file.read_bytes(), dice))
        else:
            place.symlink_to(file)
    return folder / chosen.relative_to(source)


def damaged_copy(source: Path, folder: Path, dice: random.Random) -> Path:
    """Write a damaged copy of one file."""
    place = folder / source.name
    place.write_bytes(damaged(source.name, source.read_bytes(), dice))
    return place


@cache
def pictures() -> list[tuple[str, bytes]]:
    """One small picture in each of the formats that people have."""
    import results.reading  # noqa: F401 (tells Pillow of HEIC)

    with Image.open(DATA / "input" / "scene.png") as scene:
        image = scene.convert("RGB").resize((48, 40))
    made = [("picture.dng", dng(np.asarray(image)))]  # read where rawpy is installed
    for ending, file_format in (
        ("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"), ("gif", "GIF"), ("bmp", "BMP"), ("tif", "TIFF"),
        ("ppm", "PPM"), ("ico", "ICO"), ("tga", "TGA"), ("jp2", "JPEG2000"), ("avif", "AVIF"),
        ("heic", "HEIF"),
    ):  # fmt: skip
        stream = io.BytesIO()
        try:
            image.save(stream, file_format, **({"compression": "tiff_lzw"} if ending == "tif" else {}))
        except (KeyError, OSError):  # this Pillow was built without
            continue
        made.append((f"picture.{ending}", stream.getvalue()))
    return made


def picture(folder: Path, dice: random.Random) -> None:
    """A picture, found and decoded."""
    from results.pictures import find_pictures
    from results.reading import read_picture

    name, content = dice.choice(pictures())
    (folder / name).write_bytes(damaged(name, content, dice))
    for source in find_pictures([folder]).sources:
        read_picture(source.file)


def run_json(folder: Path, dice: random.Random) -> None:
    """A run.json that a run goes on from."""
    from results.load_report import load_report
    from results.output_tree import OutputTree
    from results.pictures import Source
    from results.resume import take_up

    content = dice.choice(reports()).encode()
    (folder / "run.json").write_bytes(damaged("run.json", content, dice))
    tree = OutputTree(folder)
    earlier = load_report(tree.run_json)
    source = Source(DATA / "input" / "scene.png", "scene.png")
    take_up(tree, [source], earlier.pictures if earlier else {})


@cache
def reports() -> list[str]:
    """A few real reports."""
    import tempfile

    from machine.stage_times import StageTimes
    from results.output_tree import OutputTree
    from results.run_report import PictureRecord, RunReport, StepRecord, TilePrompt

    texts = []
    for done in (0, 2):
        with tempfile.TemporaryDirectory() as folder:
            report = RunReport(OutputTree(Path(folder)), "1", {"chain": {"seed": 1}}, {}, StageTimes())
            steps = [
                StepRecord(
                    k,
                    4**k,
                    (16, 16, 32, 32),
                    k - 1 if k > 1 else None,
                    (64, 64),
                    (20.5, 0.0, 128 / 4**k, 128 / 4**k),
                    "invented",
                    "a cat",
                    "a cat",
                    "null",
                    tiles=[TilePrompt((0, 0, 32, 64), "a cat")] * k,
                    seed=k,
                    consistency=40.5,
                    sr_seconds=0.5,
                    done=k <= done,
                )
                for k in (1, 2)
            ]
            for name in ("scene", "x/turned"):
                report.pictures[name] = PictureRecord(
                    name,
                    f"{name}.png",
                    f"/in/{name}.png",
                    "eye",
                    (0.5, 0.25),
                    "0" * 64,
                    (128, 96),
                    (16.0, 0.0, 96.0, 96.0),
                    9.5,
                    "started",
                    steps=steps,
                )
            report.save()
            texts.append(report.tree.run_json.read_text())
    return texts


def prompts_csv(folder: Path, dice: random.Random) -> None:
    """A CSV file of prompts."""
    from results.prompts_file import read_prompts

    content = (
        b'file,step,prompt\r\nscene.png,1,"a cat, grey"\r\nscene.png,2,"fur\r\nand more"\r\nturned.png,1,\r\n'
    )
    (folder / "prompts.csv").write_bytes(damaged("prompts.csv", content, dice))
    read_prompts(folder / "prompts.csv")


def sd3(folder: Path, dice: random.Random) -> None:
    """An SD3 folder: checked, its networks built, and the damaged part loaded."""
    from machine.machine import Machine
    from osediff_sd3 import OSEDiffSD3
    from sd3.checkpoint import check_sd3
    from sd3.spec import PARTS

    chosen = with_one_damaged(DATA / "sd3", folder, dice)
    checkpoint = check_sd3(str(folder), *SR)
    machine = Machine.choose("cpu")
    OSEDiffSD3(checkpoint, machine)
    for part, spec in PARTS.items():
        if spec.folder == chosen.parent.name:
            with machine.residency.use(part):
                pass


def sr_files(folder: Path, dice: random.Random) -> None:
    """The SR LoRA, or the SR VAE encoder: checked and merged."""
    from machine.machine import Machine
    from osediff_sd3 import OSEDiffSD3
    from sd3.checkpoint import check_sd3

    which = dice.randrange(2)
    files = [damaged_copy(file, folder, dice) if which == number else file for number, file in enumerate(SR)]
    checkpoint = check_sd3(str(DATA / "sd3"), *files)
    machine = Machine.choose("cpu")
    OSEDiffSD3(checkpoint, machine)
    with machine.residency.use(("transformer", "vae_encoder")[which]):
        pass


def tagger(folder: Path, dice: random.Random) -> None:
    """RAM, DAPE, or one of their lists: checked and loaded."""
    from machine.machine import Machine
    from prompts.extractors import DAPE, DapeExtractor
    from ram.files import check_ram_files

    files = [DATA / "RAM" / "ram_swin_tiny.pth", DATA / "DAPE" / "DAPE.pth", *LISTS]
    which = dice.randrange(len(files))
    files[which] = damaged_copy(files[which], folder, dice)
    machine = Machine.choose("cpu")
    DapeExtractor(check_ram_files(*files), machine)
    with machine.residency.use(DAPE):
        pass


def vlm(folder: Path, dice: random.Random) -> None:
    """Qwen's folder, or the adapter's: checked, tokenizer read, and loaded."""
    from machine.machine import Machine
    from prompts.extractors import VLM, VlmExtractor
    from prompts.vlm_files import check_vlm_folder

    folders = [DATA / "qwen", DATA / "VLM_LoRA" / "checkpoint-10000"]
    which = dice.randrange(2)
    with_one_damaged(folders[which], folder, dice)
    folders[which] = folder
    machine = Machine.choose("cpu")
    VlmExtractor(check_vlm_folder(*folders), machine, 4, None)
    with machine.residency.use(VLM):
        pass


@cache
def tiny_vlms() -> list[Path]:
    """Folders of other kinds of VLM; they stay as long as the process."""
    from tiny_vlms import TINY

    root = Path(tempfile.mkdtemp(prefix="tiny_vlms"))
    atexit.register(shutil.rmtree, root)
    return [TINY[kind](root / kind) for kind in ("smolvlm", "internvl", "qwen3_vl")]


def other_vlm(folder: Path, dice: random.Random) -> None:
    """The folder of another kind of VLM: checked, its processor tried, and loaded."""
    from machine.machine import Machine
    from prompts.extractors import VLM, VlmExtractor
    from prompts.vlm_files import check_vlm_folder

    with_one_damaged(dice.choice(tiny_vlms()), folder, dice)
    machine = Machine.choose("cpu")
    VlmExtractor(check_vlm_folder(folder, None), machine, 4, None)
    with machine.residency.use(VLM):
        pass


def quantized(folder: Path, dice: random.Random) -> None:
    """A folder of quantized parts: nothing in it ends a run."""
    from int8.find_parts import read_parts
    from int8.run_part import refuse_what_does_not_open

    source = os.environ.get("FUZZ_QUANTIZED")
    if source is None:
        return
    with_one_damaged(Path(source), folder, dice)
    found = read_parts(folder)
    found.refuse_others_sources(DATA / "sd3", *SR)
    refuse_what_does_not_open(found)
    found.warnings()


def spots_csv(folder: Path, dice: random.Random) -> None:
    """A CSV file of spots."""
    from results.spots_file import read_spots

    content = b'file,x,y,label\r\nscene.png,0.25,0.5,eye\r\n"turned, too.png",1,0,\r\nscene.png,0.1,0.9,2\r\n'
    (folder / "spots.csv").write_bytes(damaged("spots.csv", content, dice))
    read_spots(folder / "spots.csv", ["scene.png", "turned, too.png"])


TARGETS: list[Target] = [
    picture,
    run_json,
    prompts_csv,
    spots_csv,
    sd3,
    sr_files,
    tagger,
    vlm,
    other_vlm,
    quantized,
]


def finding(target: Target, folder: Path, seed: int) -> str:
    """Give one damaged file to a target; return what is wrong with how it took it, or nothing."""
    before = {file: file.stat().st_mtime_ns for file in DATA.rglob("*")}
    try:
        target(folder, random.Random(f"{target.__name__} {seed}"))
    except (InputError, PictureError) as error:
        message = shortened(printable(str(error)))
        if len(message) > 300 or "\n" in message:
            return f"a message of {len(message)} characters: {message!r}"
    except Exception as error:
        import traceback

        last = traceback.extract_tb(error.__traceback__)[-3:]
        where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(last))
        return f"{type(error).__name__}: {str(error)[:200]} at {where}"
    if before != {file: file.stat().st_mtime_ns for file in DATA.rglob("*")}:
        return "it wrote to the checkpoints"
    return ""
