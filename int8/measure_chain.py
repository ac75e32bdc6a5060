"""What int8 parts do to a whole chain: its states beside those of PyTorch's parts in fp32.

A part's bar (`int8.make_part`) holds for one picture of one pass. In a chain every step enlarges the middle
of the state before, and what int8 has changed there with it: so pictures are zoomed into without int8 parts,
with each of them alone, with the text encoders and with all parts, and compared step by step.
"""

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from errors import InputError
from int8.calibration import SRInput
from int8.find_parts import QuantizedParts
from int8.run_part import stand_ins
from machine.machine import Machine
from osediff_sd3 import OSEDiffSD3
from results.folder import Folder
from results.output_tree import OutputTree
from results.run_report import PictureRecord
from sd3.checkpoint import SD3Checkpoint
from sd3.spec import TEXT_PARTS
from zoom.chain import Chain
from zoom.measure import psnr
from zoom.settings import SMALLEST_STATE, ChainSettings, Tiles

logger = logging.getLogger(__name__)

REPORT = "chain.json"
STEPS = 2
MOST_SIDE = 512  # pixels of a state: what SD3's one step was trained for

Parts = tuple[str, ...]


@dataclass(frozen=True)
class ChainMeasured:
    """How near chains with int8 parts come to the chain without.

    Attributes:
        size: width and height of the states, in pixels.
        pictures: files that were zoomed into.
        psnr: by the parts that were int8: for each picture the dB of each step's state, at most
            `zoom.measure.MOST_DECIBELS`, which stands for equal.
    """

    size: tuple[int, int]
    pictures: list[Path]
    psnr: dict[Parts, list[list[float]]]

    def worst(self) -> dict[Parts, list[float]]:
        """Return by parts, for each step, the dB of the picture that comes out worst."""
        return {parts: [min(step) for step in zip(*of, strict=True)] for parts, of in self.psnr.items()}

    def write(self, folder: Path, found: QuantizedParts) -> Path:
        """Write all figures to chain.json in a folder.

        Args:
            folder: an existing one.
            found: the parts.

        Returns:
            The file.

        Raises:
            OutputError: it cannot be written.
        """
        report = {
            "steps": STEPS,
            "size": self.size,
            "pictures": [f"{file.parent.name}/{file.name}" for file in self.pictures],
            "quantized": found.describe(),
            "psnr": [{"int8": parts, "pictures": of} for parts, of in self.psnr.items()],
        }
        Folder(folder).write(f"{json.dumps(report, indent=1)}\n".encode(), folder / REPORT)
        return folder / REPORT


def measure_chain(
    found: QuantizedParts, checkpoint: SD3Checkpoint, pictures: Sequence[SRInput], device: str
) -> ChainMeasured:
    """Zoom into pictures with and without int8 parts, one part in memory at a time.

    Args:
        found: the int8 parts, at least one, that were made from the checkpoint.
        checkpoint: with the weights of all six parts.
        pictures: their files are zoomed into, with their prompts at every step.
        device: where the parts compute.

    Raises:
        InputError: a picture cannot be zoomed into.
    """
    side = min(MOST_SIDE, *(length for picture in pictures for length in picture.read().size))
    # shrunk: no state shows the picture's own pixels, the networks make them all
    size = (max(side, SMALLEST_STATE),) * 2
    settings = ChainSettings("recursive", STEPS, process_size=size, source="shrunk")
    measured: dict[Parts, list[list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="measure_chain.") as scratch:

        def zoom(parts: Parts) -> list[list[Image.Image]]:
            tree = OutputTree(Path(scratch) / ("-".join(parts) or "fp32"))
            loaders = stand_ins(found, checkpoint.vae_config, Tiles())
            machine = Machine.choose(device, "fp32", efficient_memory=True)
            chosen = {part: loaders[part] for part in parts}
            return _states(settings, tree, OSEDiffSD3(checkpoint, machine, stand_ins=chosen), pictures)

        exact = zoom(())
        for parts in tqdm(sets_of(list(found.folders)), desc="zooming", leave=False, disable=None):
            logger.info("zooming with %s in int8", ", ".join(parts))
            measured[parts] = [
                [psnr(state, right) for state, right in zip(states, rights, strict=True)]
                for states, rights in zip(zoom(parts), exact, strict=True)
            ]
    return ChainMeasured(size, [picture.file for picture in pictures], measured)


def sets_of(parts: Sequence[str]) -> list[Parts]:
    """Return what is measured of some parts: each alone, the text encoders together, and all."""
    text = tuple(part for part in parts if part in TEXT_PARTS)
    return list(dict.fromkeys([*((part,) for part in parts), *([text] if text else ()), tuple(parts)]))


def _states(
    settings: ChainSettings, tree: OutputTree, backbone: OSEDiffSD3, pictures: Sequence[SRInput]
) -> list[list[Image.Image]]:
    """Return the states of each picture from step 1, RGB."""
    records = [
        PictureRecord(str(number), str(number), str(picture.file)) for number, picture in enumerate(pictures)
    ]
    prompts = {
        (record.label, step, 0): picture.prompt
        for record, picture in zip(records, pictures, strict=True)
        for step in range(1, settings.rec_num + 1)
    }
    chain = Chain(
        settings, tree, None, backbone, backbone.machine.times, prompts, save_prompts=False, save="states"
    )
    for _ in chain.run(records, len(records)):
        pass
    for record in records:
        if record.failed:
            raise InputError(f"--measure_chain: {record.file} {record.failure}")
    return [
        [tree.read_state(record.name, step.step, settings.process_size) for step in record.steps]
        for record in records
    ]
