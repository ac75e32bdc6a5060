"""Command: train the prompt extractor, with GRPO and a critic, for answers that steer a zoom well."""

from machine import interrupts

INTERRUPTED = "interrupted; the same command goes on from the last checkpoint"
if __name__ == "__main__":
    interrupts.listen(f"train_prompt_extractor.py: {INTERRUPTED}")

import logging
import os
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from command.console import ALL_DONE, BAD_INPUT, SOME_FAILED, end_process, run_command, say, set_up_logging
from command.training_options import (
    CLIP,
    MOST_HELD_OUT,
    is_address,
    is_first_process,
    parse,
    training_settings,
)
from errors import InputError, OutputError

if TYPE_CHECKING:
    import torch

    from prompts.vlm_files import VlmFiles
    from results.pictures import Failure
    from training.critics import Critic
    from training.data import Item
    from training.settings import TrainingSettings
    from training.tree import TrainingTree

logger = logging.getLogger("train_prompt_extractor")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: as after the command's name; those of the process where None.

    Returns:
        The exit code, see ``--help``.
    """
    return run_command("train_prompt_extractor.py", arguments, lambda given: run(parse(given)), INTERRUPTED)


def run(options: Namespace) -> int:
    """Check everything; then train, evaluate, or print the plan."""
    first = is_first_process()
    set_up_logging(logging.WARNING if first else logging.ERROR)
    level = logging.DEBUG if options.verbose else logging.WARNING if options.quiet else logging.INFO
    for name in ("__main__", "train_prompt_extractor", "training", "checkpoints"):
        logging.getLogger(name).setLevel(level if first else logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        return _run(options)
    except (InputError, OutputError):
        if first:
            raise
        return BAD_INPUT  # the first process says it for all


def _run(options: Namespace) -> int:
    from prompts.vlm_files import QWEN2_5, check_vlm_folder
    from training.data import fingerprint
    from training.tree import TrainingTree

    settings, tree = training_settings(options), TrainingTree(options.output_dir)
    trained_on, held_out, failures = _items(options)
    files = check_vlm_folder(options.vlm_path, None, download=not options.dry_run)
    if files.kind != QWEN2_5:
        raise InputError(f"--vlm_path {files.folder}: a {files.title}; only Qwen2.5-VL is trained here")
    critic = _critic(options)
    described = {
        "data": {"trained_on": fingerprint(trained_on), "held_out": fingerprint(held_out)},
        "extractor": files.describe(),
        "training": settings.described(),
    }
    if options.dry_run:
        from training.plan import plan

        done = (
            0 if options.overwrite or tree.earlier(described) is None else max(tree.checkpoints(), default=0)
        )
        item = _dtype(options, files).itemsize
        for line in plan(settings, files, critic, (trained_on, held_out), failures, item, done):
            say(line)
        return SOME_FAILED if failures else ALL_DONE
    for failure in failures:
        logger.warning("%s: left out: %s", failure.label, failure.reason)

    from prompts.vlm_loading import check_vlm

    files = check_vlm(files)
    critic.begin()
    if options.evaluate:
        unscored = _evaluate(options, settings, tree, files, critic, held_out, described)
        left_out = 0
    else:
        unscored, left_out = _train(options, settings, tree, files, critic, trained_on, described)
    if unscored and is_first_process():
        say(f"train_prompt_extractor.py: {unscored}", error=True)
    return SOME_FAILED if failures or unscored or left_out else ALL_DONE


def _items(options: Namespace) -> "tuple[list[Item], list[Item], list[Failure]]":
    """Find what there is to train on, and hold some of it out."""
    from training.data import hold_out, items_of_pictures, items_of_run

    items: list[Item] = []
    failures: list[Failure] = []
    if options.input_image:
        items, failures = items_of_pictures(
            options.input_image, options.recursive_folders, options.process_size, options.upscale
        )
    for folder in options.states:
        items += items_of_run(folder)
    if not items:
        raise InputError("; ".join(f"{failure.label}: {failure.reason}" for failure in failures[:3]))
    labels = len({item.label for item in items})
    count = min(labels // 10, MOST_HELD_OUT) if options.held_out is None else options.held_out
    trained_on, held_out = hold_out(items, count, options.seed)
    if options.evaluate and not held_out:
        raise InputError(f"--evaluate: of {labels} pictures none is held out; say how many with --held_out N")
    return trained_on, held_out, failures


def _critic(options: Namespace) -> "Critic":
    """Find the critic; nothing of it is loaded or asked yet."""
    if is_address(options.critic):
        from training.server_critic import ServerCritic

        return ServerCritic(
            options.critic,
            options.critic_model,
            options.critic_timeout,
            options.critic_tries,
            options.critic_batch_size,
        )
    from machine.devices import choose_device
    from training.local_critic import LocalCritic, find_critic

    name = (options.critic_model or CLIP) if options.critic == "clip" else options.critic
    found = find_critic(name, download=not options.dry_run)
    device = options.device if options.critic_device == "auto" else options.critic_device
    if device == "auto" and "LOCAL_RANK" in os.environ and _has_cuda():
        device = f"cuda:{int(os.environ['LOCAL_RANK'])}"
    chosen = choose_device(device, "--critic_device")
    if options.critic == "clip":
        from training.clip_critic import ClipCritic

        return ClipCritic(found, chosen)
    return LocalCritic(found, chosen, options.critic_batch_size)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _dtype(options: Namespace, files: "VlmFiles") -> "torch.dtype":
    """Return the dtype of the extractor's weights: float32 where bfloat16 is not computed in."""
    import torch

    from machine.devices import choose_device, choose_dtype

    device = choose_device(options.device)
    dtype = choose_dtype(options.mixed_precision, device, files.model.dtype)
    old = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8
    in_halves = options.mixed_precision == "auto" and (old or device.type == "mps")
    return torch.float32 if in_halves or dtype == torch.float16 else dtype


def _train(
    options: Namespace,
    settings: "TrainingSettings",
    tree: "TrainingTree",
    files: "VlmFiles",
    critic: "Critic",
    items: "Sequence[Item]",
    described: dict[str, Any],
) -> tuple[str, int]:
    """Train; return what the critic has failed to score, and how many items could not be read."""
    from command.version import program_version
    from command.zooming import about_machine
    from training.run import Job, run_training

    described = {**described, "critic": critic.describe()}
    about = {"program": "chain-of-zoom", "version": program_version(), "environment": about_machine()}
    outcome = run_training(
        Job(
            settings,
            files,
            items,
            critic,
            tree,
            described,
            about,
            _dtype(options, files),
            options.device == "cpu",
            options.save_steps,
            options.save_total_limit,
            options.critic_patience,
            options.overwrite,
            options.quiet,
        )
    )
    if is_first_process() and not options.quiet:
        before = f", {outcome.steps - outcome.new} of them before" if outcome.new < outcome.steps else ""
        say(f"{outcome.steps} steps done{before}; zoom with --vlm_lora_path {tree.adapter}")
    return outcome.unscored, outcome.left_out


def _evaluate(
    options: Namespace,
    settings: "TrainingSettings",
    tree: "TrainingTree",
    files: "VlmFiles",
    critic: "Critic",
    items: "Sequence[Item]",
    described: dict[str, Any],
) -> str:
    """Compare base and adapter; return what the critic has failed to score."""
    from machine.machine import Machine
    from prompts.answer_cache import AnswerCache
    from prompts.vlm_files import check_vlm_folder
    from training.answer_rewards import AnswerRewards
    from training.data import Pairs
    from training.evaluate import WHO, adapter_to_evaluate, as_json, ask, compare
    from training.judge import Judge
    from training.page import page
    from training.tree import MOST_SCORES

    if options.vlm_lora_path is None and tree.report.exists():
        tree.earlier(
            {"data": described["data"]}, "give the same pictures, or the adapter with --vlm_lora_path"
        )
    adapter = adapter_to_evaluate(tree.adapter, tree.checkpoints(), options.vlm_lora_path)
    tuned = check_vlm_folder(options.vlm_path, adapter)
    tree.prepare()
    made = Pairs(items, settings.seed)
    pairs = [made.pair(row) for row in range(min(len(items), options.eval_pairs))]
    logging.getLogger("prompts").setLevel(logging.ERROR)  # an answer that is no prompt is on the page
    answers = {}
    for who, extractor in zip(WHO, (files, tuned), strict=True):
        logger.info("asking the %s %d questions", who, len(pairs))
        machine = Machine.choose(options.device, options.mixed_precision, batch_size=options.batch_size)
        answers[who] = ask(extractor, machine, pairs, settings)
    judge = Judge(critic, AnswerCache(tree.scores, MOST_SCORES), options.critic_patience)
    rewards = AnswerRewards(made, judge, settings.excluded_phrases, settings.ngram)
    evaluation = compare(pairs, answers, rewards, settings.weights, options.quiet)
    about = {"adapter": str(adapter), "extractor": tuned.describe(), "critic": critic.describe()}
    tree.write(as_json(evaluation, about), tree.evaluation)
    lines = [f"Extractor: {files.name}; adapter: {adapter}. Judged by {judge.name}."]
    tree.write(page(evaluation, "The prompt extractor, before and after", lines).encode(), tree.page)
    if not options.quiet:
        for who in WHO:
            means = ", ".join(f"{name} {value}" for name, value in evaluation.means[who].items())
            say(f"{who:<8} {means}")
        say(f"Open {tree.page} to read both answers to {len(pairs)} questions.")
    return judge.summary()


if __name__ == "__main__":
    end_process(main())
