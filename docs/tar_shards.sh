#!/bin/bash
# Tars of pictures in, tars of states out: bash docs/tar_shards.sh TARS RESULTS [OPTIONS of inference_coz.py]
# TARS holds *.tar (WebDataset's layout: KEY.jpg; what else is in them is passed over); RESULTS gets one of the same
# name: run.json, KEY.0.png, KEY.1.png ... Both may be mounts of an object store: whole files are read and written, in
# order, and nothing is locked. In a Slurm array each task takes every N-th tar. A tar that is there is not made
# again; one that was interrupted is begun anew.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
turn=$((${SLURM_ARRAY_TASK_MIN:-0} - ${SLURM_ARRAY_TASK_ID:-0}))
code=0
for tar in "$1"/*.tar; do
    name=$(basename "$tar" .tar)
    if ((turn++ % ${SLURM_ARRAY_TASK_COUNT:-1} != 0)) || [ -e "$2/$name.tar" ]; then continue; fi
    mkdir "$scratch/in"
    tar -xf "$tar" -C "$scratch/in"
    # --shard 0/1: all pictures of the tar, whatever Slurm's variables say
    "${PYTHON:-.venv/bin/python}" inference_coz.py --input_image "$scratch/in" --output_dir "$scratch/out" \
        --recursive_folders --save states --shard 0/1 --quiet "${@:3}" || code=$?
    [ "$code" -le 1 ] || exit "$code" # 1: some pictures failed; they are named, and run.json says why
    (cd "$scratch/out" && mkdir -p per-sample && find per-sample -name '*.png' -print0 | sort -zV) |
        tar -cf "$scratch/$name.tar" -C "$scratch/out" --transform 's,^per-sample/\(.*\)/\([0-9]*\.png\)$,\1.\2,' \
            run.json --null -T -
    cp "$scratch/$name.tar" "$2/.$name.part"
    mv "$2/.$name.part" "$2/$name.tar"
    rm -rf "${scratch:?}"/*
done
exit "$code"
