"""The options of the VLM, here or behind a server, and what of them can be checked at once."""

import argparse
from pathlib import Path
from typing import Any

from checkpoints.hub import VLM_NAME
from command.arguments import at_least
from errors import InputError
from prompts.vlm_server import KEY, TIMEOUT, checked_url

MAX_NEW_TOKENS = 128
LONGEST_TIMEOUT = 86_400.0  # seconds
MOST_REQUESTS = 64  # a thread each
# What nothing reads without a VLM, and what nothing reads without a server; with the defaults.
VLM_OPTIONS = {"vlm_path": VLM_NAME, "vlm_lora_path": None, "vlm_url": None, "max_new_tokens": MAX_NEW_TOKENS}
SERVER_OPTIONS: dict[str, Any] = {
    "vlm_model": None,
    "vlm_requests": 4,
    "vlm_timeout": TIMEOUT,
    "no_vlm_cache": False,
}
LOCAL_OPTIONS = ("vlm_path", "vlm_lora_path")


def add_vlm_options(group: argparse._ArgumentGroup) -> None:
    """Describe them."""
    add = group.add_argument
    add(
        "--vlm_path",
        metavar="PATH",
        help="Qwen2.5-VL, or another model of transformers for pictures and text: folder or hub name "
        f"(default: {VLM_NAME})",
    )
    add("--vlm_lora_path", metavar="DIR", type=Path, help="PEFT folder of the tuned prompt extractor")
    add(
        "--max_new_tokens",
        type=at_least(1),
        metavar="N",
        help=f"longest answer of the VLM (default: {MAX_NEW_TOKENS})",
    )
    add(
        "--vlm_url",
        metavar="URL",
        help="ask an OpenAI-compatible server (vLLM, llama.cpp, Ollama) instead of a model here: "
        f"http://HOST:PORT/v1; a key that it wants goes into the environment variable {KEY}",
    )
    add("--vlm_model", metavar="NAME", help="model of that server (default: its only one)")
    add(
        "--vlm_requests",
        type=at_least(1),
        metavar="N",
        help="questions that the server has at a time; so many pictures go through a scale together "
        f"(default: {SERVER_OPTIONS['vlm_requests']})",
    )
    add(
        "--vlm_timeout",
        type=float,
        metavar="SECONDS",
        help=f"how long one try may take (default: {TIMEOUT:g})",
    )
    add(
        "--no_vlm_cache",
        action="store_true",
        help="ask the server everything anew, also what it has answered in earlier runs",
    )


def check_vlm_options(options: argparse.Namespace) -> None:
    """Refuse what cannot go together, and an address that is none.

    Raises:
        InputError: the first thing that is wrong.
    """
    if options.vlm_url is None:
        return
    for name in LOCAL_OPTIONS:
        if getattr(options, name) is not None:
            raise InputError(
                f"--{name}: --vlm_url asks a server instead of a model here; give one of the two"
            )
    if options.vlm_timeout is not None and not 0 < options.vlm_timeout <= LONGEST_TIMEOUT:
        raise InputError(
            f"--vlm_timeout {options.vlm_timeout:g}: must be above 0, at most {LONGEST_TIMEOUT:g}"
        )
    if options.vlm_requests is not None and options.vlm_requests > MOST_REQUESTS:
        raise InputError(f"--vlm_requests {options.vlm_requests}: at most {MOST_REQUESTS}")
    options.vlm_url = checked_url(options.vlm_url)
