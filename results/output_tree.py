"""The folder that a run writes: names, and places.

OUT/per-sample/NAME/0.png ... N.png      states
OUT/per-sample/NAME/K_input.png          SR input of step K (recursive kinds)
OUT/per-sample/NAME/0_input_for_K.png    the same for onestep
OUT/per-sample/NAME/txt/K.txt            prompt of step K+1 (K counts from 0)
OUT/per-sample/NAME/NAME.png             states side by side
OUT/per-scale/scaleK/NAME.png            state K of every picture
OUT/recursive/NAME.png                   the strip again
OUT/index.html                   the page that shows them all
OUT/page/                        what it is made of
OUT/page/pictures/ID.js, ID.jpg, ID-K.jpg   of one picture, see `page_id`
OUT/video/NAME.mp4, .webp, .gif          films
OUT/run.json, OUT/prompts.csv            what the run was and said
OUT/run.jsonl                            while it runs: see `results.run_report`
OUT/spots.csv, OUT/spots/NAME.png        what --find_detail proposes
OUT/shards/K-of-N/run.json, prompts.csv  the same of a shard: see `results.shards`
OUT/.lock, .lock-K-of-N, .lock-door      while a run writes here: see `results.locks`
"""

import contextlib
import hashlib
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from PIL.Image import Image

from errors import InputError, PictureError
from results.folder import TEMPORARY_PREFIX, Folder, temporary, temporary_name, unlink_all
from results.locks import Entered, locked
from results.pictures import Source
from results.png import read_state
from results.shards import FOLDER as SHARDS
from results.shards import Shard, report_of

log = logging.getLogger(__name__)

FOLDERS = ("per-sample", "per-scale", "recursive")
SPOTS, PAGE, VIDEO = "spots", "page", "video"
FILMS = ("mp4", "webp", "gif")  # formats of films, and how their files end
OURS = (*FOLDERS, SPOTS, PAGE, VIDEO, SHARDS)  # all that a run may write into

# Windows takes these for devices, in any case of letters and whatever ending follows.
_WINDOWS_DEVICES = {
    *("CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"),
    *(f"{port}{n}" for port in ("COM", "LPT") for n in "123456789\xb9\xb2\xb3"),
}
# A picture of such a name would write its strip over one of its own states.
_NAMES_OF_STATES = re.compile(r"[0-9]+(_input(_for_[0-9]+)?)?|txt", re.IGNORECASE)
_LONGEST_NAME = 200  # bytes; file systems allow 255, and endings are added
# Characters, as Windows counts them. Most of its programs take no path of 260, and a strip's holds the name
# twice: OUT/per-sample/NAME/NAME.png.
_LONGEST_NEW_NAME = 100
_LONGEST_PATH = 4096
_DEEPEST = 64  # folders in folders


def safe_name(text: str) -> str:
    """Make a file name that Linux, macOS and Windows all accept, and leave what is fine as it is."""
    # undecodable bytes of a Linux file name are surrogates here, which nothing can be encoded with
    name = unicodedata.normalize("NFC", text).encode("utf-8", "replace").decode("utf-8")
    if name.startswith(TEMPORARY_PREFIX):  # a rerun sweeps such names up
        name = f"_{name}"
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f]', "_", name).rstrip(". ") or "_"
    # a folder named like a picture of the tree could stand where that picture goes
    name = re.sub(r"\.(png|txt)$", r"_\1", name, flags=re.IGNORECASE)
    if name.split(".")[0].rstrip(" ").upper() in _WINDOWS_DEVICES:
        name = f"_{name}"
    return _cut(name, "utf-8", _LONGEST_NAME)


def _new_name(text: str) -> str:
    """Make a safe name that leaves room for folders before it, as names of earlier runs may not."""
    return _cut(safe_name(text), "utf-16-le", 2 * _LONGEST_NEW_NAME)


def _cut(name: str, encoding: str, most: int) -> str:
    """Cut a name to `most` bytes in an encoding, with a hash at its end where something is cut off."""
    encoded = name.encode(encoding)
    if len(encoded) <= most:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    kept = most - len(f"-{digest}".encode(encoding))
    return f"{encoded[:kept].decode(encoding, 'ignore')}-{digest}"


def is_name(text: str) -> bool:
    """Tell whether a picture's name read from a file is one that `assign_names` could have given."""
    parts = text.split("/")
    return (
        len(text) <= _LONGEST_PATH
        and len(parts) <= _DEEPEST
        and all(part and safe_name(part) == part for part in parts)
        and not _NAMES_OF_STATES.fullmatch(parts[-1])
    )


def page_id(name: str) -> str:
    """Return what a picture's files in OUT/page/pictures/ are called: 16 letters, whatever its name is."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def assign_names(sources: Sequence[Source], taken: Mapping[tuple[str, str], str]) -> dict[Source, str]:
    """Give every picture a name of its own in the output tree.

    It is the file's stem; where pictures share a stem (in any case of letters), or the stem is the name
    of a state, ``stem_ending``; where that is not enough, the same with a hash of the path. Pictures from
    folders inside a folder keep these folders before the name; spots of a picture have ``~LABEL`` behind it.

    Args:
        sources: the pictures of this run.
        taken: names that earlier runs into the same folder gave, by `Source.id`: these stay.
    """
    names = {source: taken[source.id] for source in sources if source.id in taken}
    used = {name.casefold() for name in taken.values()}
    new = [source for source in sources if source not in names]
    for form in (_stem, _stem_and_ending, _stem_ending_and_hash):
        wanted = {source: form(source) for source in new}
        how_often = Counter(name.casefold() for name in wanted.values())
        for source, name in wanted.items():
            clash = how_often[name.casefold()] > 1 or name.casefold() in used
            reserved = form is _stem and _NAMES_OF_STATES.fullmatch(PurePosixPath(name).name)
            if not clash and not reserved:
                names[source] = name
        used |= {names[source].casefold() for source in new if source in names}
        new = [source for source in new if source not in names]
    return names


def _in_its_folders(source: Source, name: str) -> str:
    folders = [_new_name(part) for part in PurePosixPath(source.label).parts[:-1]]
    return "/".join([*folders, _new_name(f"{name}~{source.spot}") if source.spot else name])


def _stem(source: Source) -> str:
    return _in_its_folders(source, _new_name(source.file.stem))


def _with_ending(source: Source) -> str:
    return _new_name(source.file.stem + source.file.suffix.replace(".", "_"))


def _stem_and_ending(source: Source) -> str:
    return _in_its_folders(source, _with_ending(source))


def _stem_ending_and_hash(source: Source) -> str:
    digest = hashlib.sha256(os.fsencode(source.key)).hexdigest()[:8]
    return _in_its_folders(source, f"{_with_ending(source)}_{digest}")


class OutputTree(Folder):
    """The places of a run's files below its output folder."""

    def __init__(self, root: Path, shard: Shard | None = None) -> None:
        super().__init__(root, "" if shard is None else f"{shard.tag}-")
        self.shard = shard

    def _place(self, place: str) -> Path:
        # joining paths part by part takes longer than looking whether the file is there
        return Path(f"{self._below}{place}")

    def state(self, name: str, step: int) -> Path:
        """State `step` of a picture, 0 for the picture itself."""
        return self._place(f"per-sample/{name}/{step}.png")

    def read_state(self, name: str, step: int, size: tuple[int, int]) -> Image:
        """Read a state.

        Returns:
            RGB, of `size`.

        Raises:
            PictureError: it is gone, damaged or of another size.
        """
        state = read_state(self.state(name, step), size)
        if state is None:
            raise self.lost_state(name, step)
        return state

    def lost_state(self, name: str, step: int) -> PictureError:
        """What to raise where a state is not as it was written."""
        return PictureError(f"state {step} is gone or damaged: {self.state(name, step)}")

    def sr_input(self, name: str, step: int, from_first_state: bool) -> Path:
        """What step `step` enlarged."""
        file = f"0_input_for_{step}.png" if from_first_state else f"{step}_input.png"
        return self._place(f"per-sample/{name}/{file}")

    def prompt(self, name: str, step: int) -> Path:
        """The prompt of step `step` (from 1; its file counts from 0)."""
        return self.root / "per-sample" / name / "txt" / f"{step - 1}.txt"

    def strip(self, name: str) -> Path:
        """The states side by side, beside the states."""
        return self._place(f"per-sample/{name}/{name.rpartition('/')[2]}.png")

    def collected_strip(self, name: str) -> Path:
        """The states side by side, beside the other pictures' strips. It is written last."""
        return self._place(f"recursive/{name}.png")

    def per_scale(self, name: str, step: int) -> Path:
        """State `step` beside the other pictures' state `step`."""
        return self._place(f"per-scale/scale{step}/{name}.png")

    def film(self, name: str, ending: str) -> Path:
        """The flight through the states; `ending` is one of `FILMS`."""
        return self.root / VIDEO / f"{name}.{ending}"

    def drawn_spots(self, name: str) -> Path:
        """A picture with the spots that were found in it."""
        return self.root / SPOTS / f"{name}.png"

    @property
    def spots_csv(self) -> Path:
        """The spots that were found, in the form that ``--regions`` reads."""
        return self.root / f"{SPOTS}.csv"

    @property
    def index(self) -> Path:
        """The page that shows all pictures."""
        return self.root / "index.html"

    def page_part(self, name: str) -> Path:
        """A file that the page is made of."""
        return self._place(f"{PAGE}/{name}")

    def description(self, name: str) -> Path:
        """What the page says of a picture; without it the page shows nothing of one."""
        return self.page_part(f"pictures/{page_id(name)}.js")

    @property
    def run_json(self) -> Path:
        """The report, see `results.run_report`; each shard has its own. While a run goes on, run.jsonl beside
        it belongs to it.
        """
        return report_of(self.root, self.shard)

    @property
    def prompts_csv(self) -> Path:
        """All prompts of the run, in the form that ``--prompts_file`` reads; each shard has its own."""
        return self.run_json.parent / "prompts.csv"

    def takes(self, picture: str) -> bool:
        """Tell whether a picture is zoomed into by this process, and not by another shard.

        Args:
            picture: its label.
        """
        return self.shard is None or self.shard.has(picture)

    def prepare(self) -> None:
        """Create the output folder; `prove_writable` has said that it can be written to.

        Raises:
            InputError: it cannot be made.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.root}: cannot be made ({error})") from error

    def prove_writable(self) -> None:
        """See that the folder, and what of a run's folders is in it, can be written to; leave nothing there.

        Where it is not there yet, the one that it will be in counts.

        Raises:
            InputError: it cannot.
        """
        outer = (self.root, *self.root.absolute().parents)
        folders = [next(path for path in outer if os.path.lexists(path))]
        folders += [inner for inner in (self.root / name for name in OURS) if inner.is_dir()]
        for folder in folders:
            try:
                with temporary(folder, self.tag) as file:  # permissions alone do not tell it on every system
                    file.touch()
            except OSError as error:
                reason = error.strerror or error
                raise InputError(
                    f"{self.root}: cannot be written to ({folder}: {reason}); give another --output_dir"
                ) from error

    @contextlib.contextmanager
    def lock(self, last: Callable[[], None] | None = None) -> Iterator[Entered]:
        """Keep every other run out of this folder, but for the other shards of this one, see `locked`.

        Args:
            last: called where a shard ends well and no other is at work.

        Raises:
            InputError: another run is writing here.
        """
        with locked(self.root, self.shard, self._sweep_after, last) as entered:
            yield entered

    def sweep(self) -> None:
        """Remove the temporary files of a killed run. Only under `lock`: another run's are in use.

        A shard removes those of its own number alone, and those of no shard: run.json is written behind the
        door, where nobody else is.
        """
        if self.shard is None:
            self._sweep([temporary_name("*")])
        else:
            self._sweep_after(self.shard)

    def _sweep_after(self, killed: Shard | None) -> None:
        """The same after another shard, or a run that was none."""
        of_none = temporary_name("[0-9a-f]" * 16)
        self._sweep([of_none] if killed is None else [of_none, temporary_name(f"{killed.tag}-*")])

    def _sweep(self, patterns: Sequence[str]) -> None:
        ours = [folder for folder in (self.root / name for name in OURS) if not folder.is_symlink()]
        for pattern in patterns:
            inside = (file for folder in ours for file in folder.rglob(pattern))
            for file in (*self.root.glob(pattern), *inside):
                if file.is_file() or file.is_symlink():
                    file.unlink(missing_ok=True)
                    log.info("%s: swept up, an earlier run was killed while writing it", file)

    def holds(self, name: str) -> bool:
        """Tell whether an earlier run may have written something about a picture."""
        return (
            os.path.lexists(f"{self._below}per-sample/{name}")
            or os.path.lexists(self.collected_strip(name))
            or os.path.lexists(self.description(name))
        )

    def remove(self, names: Sequence[str]) -> None:
        """Remove everything that earlier runs wrote about these pictures, and nothing else.

        Raises:
            OutputError: something cannot be removed, or a link leads out of the tree.
        """
        for name in names:
            self.clear(name)
            folder = self.root / "per-sample" / name
            for emptied in (folder / "txt", folder):
                with contextlib.suppress(OSError):  # other pictures' folders may be inside
                    emptied.rmdir()

    def clear(self, name: str) -> None:
        """Remove what earlier runs wrote about a picture, but for the folders that it was in.

        Raises:
            OutputError: something cannot be removed, or a link leads out of the tree.
        """
        unlink_all(_files_about(self, name))


def _files_about(tree: OutputTree, name: str) -> list[Path]:
    """List every file that a run may have written about a picture; some need not be there.

    Raises:
        OutputError: a link leads out of the tree.
    """
    folder, description = tree.root / "per-sample" / name, tree.description(name)
    per_scale = list((tree.root / "per-scale").glob("scale*"))
    scales = [scale / f"{name}.png" for scale in per_scale]
    films = [tree.film(name, ending) for ending in FILMS]
    strips = [tree.strip(name), tree.collected_strip(name)]
    for file in (*strips, tree.prompt(name, 1), films[0], description, *scales):
        tree.prove_inside(file)
    states = [file for file in folder.glob("*.png") if _NAMES_OF_STATES.fullmatch(file.stem)]
    steps = {state.stem for state in states} | {scale.name.removeprefix("scale") for scale in per_scale}
    shown = [description, description.with_suffix(".jpg")]
    shown += [description.with_name(f"{description.stem}-{step}.jpg") for step in steps]
    return [*shown, *states, *(folder / "txt").glob("[0-9]*.txt"), *strips, *scales, *films]


def places_of(root: Path) -> list[Path]:
    """Return the folders and the files of its own that a run lays into its output folder."""
    tree = OutputTree(root)
    files = tree.index, tree.run_json, tree.run_json.with_suffix(".jsonl"), tree.prompts_csv, tree.spots_csv
    return [*(root / folder for folder in OURS), *files]
