"""What the page is told: plain data for its scripts, which name its forms (``@typedef`` in viewer/page/*.js).

Names and prompts come from files. Nothing of `script_text` ends a script, and no script makes HTML of it.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from results.output_tree import page_id
from results.pictures import Failure
from results.run_report import PictureRecord
from viewer.flight import LAW, layers_of

# who said a prompt, where run.json has a word of its own for it
WHO = {"null": "you (--prompt)", "file": "you (--prompts_file)"}
ENDINGS = {
    "running": "still running, or killed: read this page anew to see more",
    "interrupted": "interrupted: the same command goes on from here",
    "stopped": "stopped by an error",
}


def folder_of(
    status: str, settings: Mapping[str, Any], pictures: Iterable[PictureRecord], unreadable: Sequence[Failure]
) -> dict[str, Any]:
    """Return what the gallery shows, a ``Folder``, without its pictures.

    Args:
        status: of the run, one of `results.run_report.STATUSES`.
        settings: of the run, in the form of run.json.
        pictures: all of the folder, also those not begun.
        unreadable: files that are no pictures.
    """
    statuses = [picture.status for picture in pictures]
    counts = f"{statuses.count('done')} of {len(statuses) + len(unreadable)} zooms done"
    return {
        "state": "; ".join(filter(None, [counts, ENDINGS.get(status, "")])),
        "law": LAW,
        "settings": list(_rows(settings)),
        "alone": False,
        "unreadable": [(readable(one.label), readable(one.reason)) for one in unreadable],
    }


def entries_of(pictures: Iterable[PictureRecord], shown: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield what the gallery says of each picture, an ``Entry``.

    Args:
        pictures: all of the folder, also those not begun.
        shown: names of the pictures whose files for the page were written.
    """
    groups: dict[str, int] = {}
    for one in pictures:
        yield _entry(one, groups.setdefault(one.file, len(groups)), one.name in shown)


def _entry(picture: PictureRecord, group: int, shown: bool) -> dict[str, Any]:
    """Return what the gallery says of a picture, an ``Entry``."""
    layers = layers_of(picture)
    # it may be begun anew, or another shard's report be behind its files
    deepest = layers[-1] if shown and len(layers) > 1 else None
    name = page_id(picture.name)
    return {
        "id": name,
        "label": readable(picture.label),
        "status": picture.status,
        "failure": readable(picture.failure or ""),
        "group": group,
        "factor": deepest.magnification if deepest else 0,
        "made": deepest.made if deepest else "",
        "thumb": f"page/pictures/{name}.jpg" if deepest else "",
    }


def route_of(picture: PictureRecord, states: Sequence[str], plain: Mapping[int, str]) -> dict[str, Any]:
    """Return what is said of a picture and its states, a ``Route``.

    Args:
        picture: its record; it has states.
        states: addresses of these.
        plain: addresses of the same enlarged with BICUBIC, by number of the state, where they differ.
    """
    layers = layers_of(picture)
    said: list[dict[str, Any]] = [
        {"prompt": "", "extractor": "", "note": "", "parts": 0, "consistency": None}
    ]
    said[0]["texture"] = picture.texture
    said += [
        {
            "prompt": readable(step.prompt or ""),
            "extractor": readable(WHO.get(step.extractor, step.extractor)) if step.prompt else "",
            "note": readable(step.note),
            "parts": len(step.tiles),
            "consistency": step.consistency,
            "texture": step.texture,
        }
        for step in picture.steps
    ]
    return {
        "id": page_id(picture.name),
        "label": readable(picture.label),
        "spot": readable(picture.spot),
        "size": picture.size,
        "aspect": layers[0].size,
        "whole": layers[-1].view == layers[0].view,
        "layers": [
            {
                "src": states[layer.step],
                "plain": plain.get(layer.step, ""),
                "view": layer.view,
                "stop": layer.stop,
                "factor": layer.magnification,
                "made": layer.made,
                **said[layer.step],
            }
            for layer in layers
        ],
    }


def readable(text: str) -> str:
    """Return a text that can be written as UTF-8: bytes of a file name that is none become question marks."""
    return text.encode("utf-8", "replace").decode()


def script_text(content: object) -> str:
    """Return JSON that can stand inside of a script element, or be one."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _rows(settings: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, str]]:
    """Lay nested settings flat; what is not set is left out."""
    for name, value in settings.items():
        path = f"{before}.{name}" if before else name
        if isinstance(value, dict):
            yield from _rows(value, path)
        elif value not in (None, "", []):
            yield readable(path), readable(value if isinstance(value, str) else json.dumps(value))
