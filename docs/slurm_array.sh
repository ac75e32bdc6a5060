#!/bin/bash
# A folder shared out among 16 jobs of Slurm, each with a GPU: sbatch docs/slurm_array.sh PICTURES OUT
# PICTURES and OUT lie on a file system that all nodes see. Each task takes its share of the pictures by the array's
# variables; the last one joins the reports. Submit it again for what was killed: nothing is done twice.
#SBATCH --job-name=chain-of-zoom
#SBATCH --array=0-15
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@60
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?}"
. .venv/bin/activate
exec python inference_coz.py --input_image "$1" --output_dir "$2" --recursive_folders "${@:3}"
