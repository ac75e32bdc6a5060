#!/bin/bash
# Tars of pictures in, tars of states out: bash docs/tar_shards.sh TARS RESULTS [OPTIONS of inference_coz.py]
# TARS holds *.tar (WebDataset's layout: KEY.jpg; what else is in them is passed over); RESULTS gets one of the same
# name: run.json, KEY.0.png, KEY.1.png ... Both may be mounts of an object store: whole files are read and written, in
# order, and nothing is locked. In a Slurm array each task takes every N-th tar. A tar that is there is not made
# again; one that was interrupted is begun anew; one without a picture that can be read is named.
# Exit code: 0 all is done; 1 a tar or some pictures failed (named); else what ended it.
set -euo pipefail
if [ $# -lt 2 ] || [ ! -d "$1" ] || [ ! -d "$2" ]; then
    echo "usage: bash docs/tar_shards.sh TARS RESULTS [OPTIONS], two folders that are there" >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}"
python=${PYTHON:-.venv/bin/python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

pack() { # FOLDER TAR: the states under the keys of their pictures, those of a picture beside each other
    "$python" - "$1" "$2" <<'PYTHON'
import json, os, sys, tarfile
from pathlib import PurePosixPath

out, target = sys.argv[1:]
with open(f"{out}/run.json", encoding="utf-8") as file:
    pictures = json.load(file)["pictures"]
with tarfile.open(target, "w") as tar:
    tar.add(f"{out}/run.json", "run.json")
    for picture in pictures:
        spot = f"~{picture['spot']}" if picture["spot"] else ""
        key = PurePosixPath(picture["label"].removesuffix(spot)).with_suffix("")
        for step in range(len(picture["steps"]) + 1):
            state = f"{out}/per-sample/{picture['name']}/{step}.png"
            if os.path.exists(state):
                tar.add(state, f"{key}{spot}.{step}.png")
PYTHON
}

turn=$((${SLURM_ARRAY_TASK_MIN:-0} - ${SLURM_ARRAY_TASK_ID:-0}))
worst=0
for tar in "$1"/*.tar; do
    name=$(basename "$tar" .tar) code=0
    if ((turn++ % ${SLURM_ARRAY_TASK_COUNT:-1} != 0)) || [ -e "$2/$name.tar" ]; then continue; fi
    mkdir "$scratch/in"
    tar -xf "$tar" -C "$scratch/in" || code=2
    # --shard 0/1: all pictures of the tar, whatever Slurm's variables say
    [ $code = 2 ] || "$python" inference_coz.py --input_image "$scratch/in" --output_dir "$scratch/out" \
        --recursive_folders --save states --shard 0/1 --quiet "${@:3}" || code=$?
    if [ $code -gt 2 ]; then exit $code; fi # interrupted, or killed
    if [ $code = 2 ]; then
        echo "failed: $tar: see above" >&2
    else
        pack "$scratch/out" "$scratch/$name.tar"
        cp "$scratch/$name.tar" "$2/.$name.part"
        mv "$2/.$name.part" "$2/$name.tar"
    fi
    if [ $code != 0 ]; then worst=1; fi
    rm -rf "${scratch:?}"/*
done
exit $worst
