"""The options of train_prompt_extractor.py, and every check that needs neither picture nor model."""

import argparse
import dataclasses
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from checkpoints.hub import VLM_NAME
from command.arguments import Parser, at_least
from errors import InputError
from training.settings import QUESTIONS, SCHEDULES, TrainingSettings

DEFAULTS = TrainingSettings()
INSTALL = "pip install -r requirements-train.txt"
CRITIC = "Qwen/Qwen2.5-VL-7B-Instruct"
CLIP = "openai/clip-vit-large-patch14"
MOST_HELD_OUT = 100  # pictures, where nobody says how many

EPILOG = f"""
examples:
  train_prompt_extractor.py -i photos -o tuned --critic http://localhost:8000/v1   a critic on a server
  train_prompt_extractor.py -i photos --states zooms zooms_sd3 -o tuned    what deep states show, too
  train_prompt_extractor.py -i photos -o tuned --dry_run                   check everything, do nothing
  train_prompt_extractor.py -i photos -o tuned --evaluate                  base and adapter, side by side
  accelerate launch --num_processes 4 train_prompt_extractor.py -i photos -o tuned     one process a GPU
  inference_coz.py -i photo.jpg --vlm_lora_path tuned/adapter ...          zooms with it

wants {INSTALL} (not for --dry_run and --evaluate)

exit codes: 0 all done; 1 done, but some pictures could not be read or some answers got no score (they are
named), or it could not go on (disk full, no score for too long); 2 bad arguments or files; 130 (143)
interrupted. The same command goes on from the last checkpoint.
"""
WEIGHT_HELP = {
    "critic": "of the critic's preference (0 to 1)",
    "phrases": "of phrase exclusion (1 where no excluded phrase occurs, else 0)",
    "repetition": "of the penalty for repeated n-grams (0 down to -1)",
    "no_prompt": "of the penalty for an answer that the extractor would refuse (0 or -1)",
}


def build_parser() -> Parser:
    """Describe every option of the command."""
    parser = Parser(
        "train_prompt_extractor.py",
        "-i PATH [PATH ...] [options]",
        "Train the VLM that prompts each step, with GRPO and a critic that sees both pictures.",
        EPILOG,
    )
    _data(parser)
    _results(parser)
    _extractor(parser)
    _critic(parser)
    _rewards(parser)
    _training(parser)
    _machine(parser)
    return parser


def _data(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what it is trained on").add_argument
    add(
        "-i",
        "--input_image",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="pictures and folders of pictures: random squares of them are shown, at random depth",
    )
    add("--recursive_folders", action="store_true", help="also search the folders inside the folders")
    add(
        "--states",
        nargs="+",
        type=Path,
        default=[],
        metavar="OUT",
        help="output folders of finished runs of inference_coz.py: their states, and what was enlarged",
    )
    add(
        "--held_out",
        type=at_least(0),
        metavar="N",
        help="pictures that are not trained on, for --evaluate (default: a tenth of them, at most "
        f"{MOST_HELD_OUT})",
    )
    add(
        "--rec_type",
        choices=QUESTIONS,
        default=DEFAULTS.rec_type,
        help="the question: about a state and its crop, or the crop alone; as in the zooms that it is for",
    )
    add(
        "--process_size",
        type=int,
        default=DEFAULTS.process_size,
        metavar="PIXELS",
        help="side of the states that are made of pictures; states of a run keep their size",
    )
    add("--upscale", type=int, default=DEFAULTS.upscale, metavar="N", help="factor of a step, 2 to 8")


def _results(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("results").add_argument
    add(
        "-o",
        "--output_dir",
        type=Path,
        default=Path("trained_extractor"),
        metavar="DIR",
        help="where adapter, checkpoints and logs go; a training that was stopped goes on there",
    )
    add("--overwrite", action="store_true", help="begin anew; without it, an earlier training goes on")
    add("--save_steps", type=at_least(1), default=50, metavar="N", help="steps between two checkpoints")
    add("--save_total_limit", type=at_least(1), default=3, metavar="N", help="how many checkpoints stay")
    add("--dry_run", action="store_true", help="check everything, print the plan, load and write nothing")
    add(
        "--evaluate",
        action="store_true",
        help="train nothing: ask the base and the adapter about the held-out pictures, and write what their "
        "answers are worth to DIR/evaluation.json and, side by side, to DIR/evaluation.html",
    )
    add("--eval_pairs", type=at_least(1), default=100, metavar="N", help="most questions of --evaluate")


def _extractor(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the extractor").add_argument
    add(
        "--vlm_path",
        default=VLM_NAME,
        metavar="MODEL",
        help="Qwen2.5-VL: a folder in transformers' layout or a hub name",
    )
    add(
        "--vlm_lora_path",
        type=Path,
        metavar="DIR",
        help="with --evaluate, the adapter to compare with the base (default: the one in --output_dir)",
    )
    add(
        "--max_new_tokens",
        type=at_least(1),
        default=DEFAULTS.max_new_tokens,
        metavar="N",
        help="where an answer is cut off",
    )
    add("--lora_rank", type=at_least(1), default=DEFAULTS.lora_rank, metavar="N", help="rank of the adapter")
    add("--lora_alpha", type=at_least(1), default=DEFAULTS.lora_alpha, metavar="N", help="its alpha")
    add("--lora_dropout", type=float, default=DEFAULTS.lora_dropout, metavar="X", help="its dropout")


def _critic(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the critic").add_argument
    add(
        "--critic",
        default=CRITIC,
        metavar="WHO",
        help="who scores answers from 0 to 100: the address of an OpenAI-compatible server "
        "(http://HOST:PORT/v1; its key, if it wants one, in VLM_API_KEY), a picture-text model for "
        "transformers (folder or hub name), or clip, which compares answer and crop (CLIPScore)",
    )
    add(
        "--critic_model",
        metavar="NAME",
        help="the server's model (default: its only one), or the CLIP model for --critic clip (default: "
        f"{CLIP})",
    )
    add(
        "--critic_timeout",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="longest wait for one of a server's answers",
    )
    add("--critic_tries", type=at_least(1), default=3, metavar="N", help="tries of one question to a server")
    add(
        "--critic_batch_size",
        type=at_least(1),
        default=8,
        metavar="N",
        help="answers judged at once: questions in flight to a server, or in one forward pass",
    )
    add(
        "--critic_device",
        default="auto",
        metavar="DEVICE",
        help="where a critic in this process computes: cpu, cuda:N, mps, or auto (with the extractor)",
    )
    add(
        "--critic_patience",
        type=at_least(0),
        default=20,
        metavar="N",
        help="stop when the critic has scored nothing in so many steps in a row; 0 never stops",
    )


def _rewards(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what answers are worth").add_argument
    for name, weight in DEFAULTS.weights.items():
        add(f"--{name}_weight", type=float, default=weight, metavar="X", help=f"weight {WEIGHT_HELP[name]}")
    add(
        "--excluded_phrases",
        nargs="+",
        default=list(DEFAULTS.excluded_phrases),
        metavar="PHRASE",
        help="what a prompt should not say, in any case of letters",
    )
    add("--ngram", type=at_least(1), default=DEFAULTS.ngram, metavar="N", help="words of an n-gram")


def _training(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the training").add_argument
    add(
        "--steps",
        type=at_least(1),
        default=DEFAULTS.steps,
        metavar="N",
        help="steps of the optimizer, in all",
    )
    add(
        "--prompts_per_step",
        type=at_least(1),
        default=DEFAULTS.prompts_per_step,
        metavar="N",
        help="questions of a step, in each process",
    )
    add(
        "--num_generations",
        type=at_least(2),
        default=DEFAULTS.num_generations,
        metavar="N",
        help="answers to each question, which are compared with each other",
    )
    add(
        "--batch_size",
        type=at_least(1),
        default=DEFAULTS.batch_size,
        metavar="N",
        help="answers in one forward and backward pass: less takes less memory, and longer",
    )
    add("--learning_rate", type=float, default=DEFAULTS.learning_rate, metavar="X", help="of AdamW")
    add(
        "--lr_scheduler_type",
        choices=SCHEDULES,
        default=DEFAULTS.lr_scheduler_type,
        help="how the learning rate goes; only the first lets more --steps go on later",
    )
    add(
        "--warmup_steps",
        type=at_least(0),
        default=DEFAULTS.warmup_steps,
        metavar="N",
        help="steps in which the learning rate rises",
    )
    add(
        "--max_grad_norm",
        type=float,
        default=DEFAULTS.max_grad_norm,
        metavar="X",
        help="gradients are cut to it",
    )
    add(
        "--beta",
        type=float,
        default=DEFAULTS.beta,
        metavar="X",
        help="weight of the KL divergence from the base",
    )
    add("--temperature", type=float, default=DEFAULTS.temperature, metavar="X", help="of the sampled answers")
    add("--seed", type=int, default=DEFAULTS.seed, metavar="N", help="of pictures, answers and first weights")


def _machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the machine")
    group.add_argument(
        "--device",
        choices=("auto", "cpu"),
        default="auto",
        help="auto: the GPU, where there is one; accelerate launch gives each process its own",
    )
    group.add_argument(
        "--mixed_precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of the extractor's weights; auto: bf16 on NVIDIA GPUs since Ampere, and on a CPU where the "
        "file is in it",
    )
    noise = group.add_mutually_exclusive_group()
    noise.add_argument("-v", "--verbose", action="store_true", help="say more")
    noise.add_argument("-q", "--quiet", action="store_true", help="say only what goes wrong")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse and check the command line.

    Raises:
        InputError: values that cannot go together, or files that are not there.
        SystemExit: for ``--help`` and ``--version``.
    """
    options = build_parser().parse_args(arguments)
    check(options)
    return options


def training_settings(options: argparse.Namespace) -> TrainingSettings:
    """Return what the options say of the training."""
    given = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(TrainingSettings)
        if hasattr(options, field.name)
    }
    weights = {name: getattr(options, f"{name}_weight") for name in DEFAULTS.weights}
    phrases = tuple(options.excluded_phrases)
    return TrainingSettings(
        **{**given, "weights": weights, "excluded_phrases": phrases, "processes": processes()}
    )


def processes() -> int:
    """Return how many processes train together: what accelerate or torchrun has set."""
    return _number("WORLD_SIZE", 1)


def is_first_process() -> bool:
    """Tell whether this process speaks for all."""
    return _number("RANK", 0) == 0


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else default


def installed() -> bool:
    """Tell whether what trains is here."""
    return all(importlib.util.find_spec(package) is not None for package in ("trl", "datasets", "matplotlib"))


def is_address(critic: str) -> bool:
    """Tell whether ``--critic`` names a server."""
    return "://" in critic


def check(options: argparse.Namespace) -> None:
    """Check values and paths, as far as nothing has to be opened.

    Raises:
        InputError: the first thing that is wrong.
    """
    training_settings(options).check()
    if not options.input_image and not options.states:
        raise InputError("give pictures (-i PATH), or finished runs (--states OUT), or both")
    for path in (*options.input_image, *options.states):
        if not os.path.exists(path):  # noqa: PTH110 (never raises)
            raise InputError(f"{path}: no such file or folder")
    if options.output_dir.exists() and not options.output_dir.is_dir():
        raise InputError(f"--output_dir {options.output_dir}: is a file; give a folder")
    if options.evaluate:
        for name in ("dry_run", "overwrite"):
            if getattr(options, name):
                raise InputError(f"--{name}: --evaluate trains nothing; leave one of the two out")
        if processes() > 1:
            raise InputError("--evaluate: runs in one process; start it without accelerate launch")
        if options.held_out == 0:
            raise InputError("--held_out 0: --evaluate wants pictures that were not trained on")
    elif options.vlm_lora_path is not None:
        raise InputError("--vlm_lora_path only goes with --evaluate: a training makes an adapter of its own")
    if options.vlm_lora_path is not None and not options.vlm_lora_path.is_dir():
        raise InputError(f"--vlm_lora_path {options.vlm_lora_path}: no such folder")
    if not 0 < options.critic_timeout <= 86400:
        raise InputError(
            f"--critic_timeout {options.critic_timeout:g}: must be more than 0 and at most 86400"
        )
    takes_model = options.critic == "clip" or is_address(options.critic)
    if options.critic_model is not None and not takes_model:
        raise InputError("--critic_model only goes with a server's address or with --critic clip")
    if not (options.evaluate or options.dry_run or installed()):
        raise InputError(f"training wants TRL, which is not installed: {INSTALL}")
