"""From options to parts: files checked first, then the machine, the prompt extractor and the SR backbone.

Nothing heavy is imported before every file is known to be there and of the right kind, and nothing heavy is
loaded at all: the parts load their models when the chain first uses them.
"""

import logging
import os
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from command.arguments import AUTO
from command.decide import RAM_OPTIONS, tiles
from errors import InputError, refuse
from machine.machine import Machine
from machine.stage_times import StageTimes

if TYPE_CHECKING:
    from int8.find_parts import QuantizedParts
    from plain_sr.any_file import CheckedNetwork
    from prompts.vlm_files import VlmFiles
    from prompts.vlm_server import VlmServer
    from ram.files import RamFiles
    from sd3.checkpoint import SD3Checkpoint
    from zoom.protocols import PromptExtractor, SRBackbone

log = logging.getLogger(__name__)


@dataclass
class CheckedFiles:
    """What a run's parts are made from: files, a server; None where no such part takes part."""

    sd3: "SD3Checkpoint | None" = None
    quantized: "QuantizedParts | None" = None
    vlm: "VlmFiles | None" = None
    vlm_server: "VlmServer | None" = None
    ram: "RamFiles | None" = None
    network: "CheckedNetwork | None" = None


@dataclass
class Parts:
    """What the chain works with.

    Attributes:
        extractor, backbone: None where the chain only resizes.
        machine: None where the chain only resizes.
        quantized: the int8 ONNX parts that stand in for SD3's; None without ``--quantize``.
    """

    extractor: "PromptExtractor | None" = None
    backbone: "SRBackbone | None" = None
    machine: Machine | None = None
    quantized: "QuantizedParts | None" = None


def check_files(options: Namespace) -> CheckedFiles:
    """Check the files of every part, and the server, without importing anything heavy.

    Args:
        options: as `command.decide.parse` returns them. Models named as on the hub are fetched here, after
            everything else was found right, but not for a dry run.

    Raises:
        InputError: all files that are missing or wrong; or the server does not answer.
    """
    files, problems = CheckedFiles(), list(options.missing.values())
    checks: list[Callable[[Namespace, CheckedFiles, bool], None]] = []
    if options.network_file is not None:
        checks.append(_check_network)
    if options.prompt_type == "dape" and not options.missing.keys() & RAM_OPTIONS.keys():
        checks.append(_check_dape)
    if options.prompt_type == "vlm" and options.vlm_url is not None:
        checks.append(_check_server)
    models: list[tuple[str, Callable[[Namespace, CheckedFiles, bool], None]]] = []
    if options.backbone == "sd3":
        models.append((options.pretrained_model_name_or_path, _check_sd3))
    if options.prompt_type == "vlm" and options.vlm_url is None:
        models.append((options.vlm_path, _check_vlm))
    models.sort(key=lambda model: not os.path.exists(model[0]))  # noqa: PTH110 (never raises)
    for check in (*checks, *(check for _, check in models)):
        try:
            check(options, files, not (options.dry_run or problems))
        except InputError as error:
            problems.append(error)
    refuse(problems)
    return files


def _check_network(options: Namespace, files: CheckedFiles, download: bool) -> None:
    from plain_sr.any_file import check_network

    files.network = check_network(options.network_file)


def _check_dape(options: Namespace, files: CheckedFiles, download: bool) -> None:
    files.ram = _check_ram(options)


def _check_server(options: Namespace, files: CheckedFiles, download: bool) -> None:
    from prompts.vlm_server import VlmServer

    files.vlm_server = VlmServer(options.vlm_url, options.vlm_model, options.vlm_timeout)
    log.info("%s answers, and has %s", options.vlm_url, files.vlm_server.check())
    _check_fallback(options, files)


def _check_vlm(options: Namespace, files: CheckedFiles, download: bool) -> None:
    from prompts.vlm_files import check_vlm_folder

    adapter = None if "vlm_lora_path" in options.missing else options.vlm_lora_path
    files.vlm = check_vlm_folder(options.vlm_path, adapter, download)
    _check_fallback(options, files)


def _check_fallback(options: Namespace, files: CheckedFiles) -> None:
    """Check the tagger that speaks where a VLM's answer is no prompt."""
    if options.ram_path is None or options.missing.keys() & RAM_OPTIONS.keys():
        return
    try:
        files.ram = _check_ram(options)
    except InputError as error:
        if options.ram_given:
            raise
        log.warning("an answer of the VLM that is no prompt will be left empty, without RAM: %s", error)


def _check_sd3(options: Namespace, files: CheckedFiles, download: bool) -> None:
    from sd3.checkpoint import check_sd3, find_sd3

    model, sr_files = options.pretrained_model_name_or_path, (options.lora_path, options.vae_path)
    if options.missing.keys() & {"lora_path", "vae_path"}:
        sr_files = None, None
    if options.quantize:
        from int8.find_parts import read_parts

        files.quantized = read_parts(options.quantized_dir)
        base = find_sd3(model, files.quantized.records, download)
        files.quantized.refuse_others_sources(base, *sr_files)
    replaced = files.quantized.records if files.quantized else ()
    files.sd3 = check_sd3(model, *sr_files, options.lora_rank, replaced, download)
    if not files.quantized or options.missing:
        return
    if files.quantized.records and not options.dry_run:
        from int8.run_part import refuse_what_does_not_open

        before = len(files.quantized.records)
        refuse_what_does_not_open(files.quantized)
        if len(files.quantized.records) < before:  # PyTorch's files are needed after all
            files.sd3 = check_sd3(model, *sr_files, options.lora_rank, files.quantized.records, download)
    for warning in files.quantized.warnings():
        log.warning("%s", warning)


def _check_ram(options: Namespace) -> "RamFiles":
    from ram.files import check_ram_files

    return check_ram_files(options.ram_path, options.ram_ft_path, options.ram_tags, options.ram_thresholds)


def build_parts(options: Namespace, files: CheckedFiles, times: StageTimes) -> Parts:
    """Build the prompt extractor and the SR backbone on this machine.

    Args:
        options: as `command.decide.parse` returns them: ``backbone`` and ``prompt_type`` are decided there.
        files: from `check_files`.
        times: shared by all parts.

    Raises:
        InputError: a device is not there, or weights do not fit their configuration.
    """
    machine = Machine.choose(
        options.device,
        options.mixed_precision,
        options.efficient_memory,
        1 if options.batch_size == AUTO else options.batch_size,
        times,
        options.gpus,
    )
    extractor = _build_extractor(options, files, machine)
    backbone = _build_backbone(options, files, machine)
    return Parts(extractor, backbone, machine, files.quantized)


def _build_extractor(options: Namespace, files: CheckedFiles, machine: Machine) -> "PromptExtractor":
    from prompts.answer_cache import AnswerCache, users_cache
    from prompts.extractors import DapeExtractor, NullExtractor, ServerExtractor, VlmExtractor

    dape = DapeExtractor(files.ram, machine) if files.ram else None
    if files.vlm_server:
        cache = None if options.no_vlm_cache or options.dry_run else AnswerCache(users_cache())
        tokens, at_once = options.max_new_tokens, options.vlm_requests
        return ServerExtractor(files.vlm_server, machine.times, tokens, at_once, dape, cache)
    if files.vlm:
        return VlmExtractor(files.vlm, machine, options.max_new_tokens, dape)
    return dape or NullExtractor()


def _build_backbone(options: Namespace, files: CheckedFiles, machine: Machine) -> "SRBackbone":
    if files.network is not None:
        from plain_sr.any_file import build_network

        return build_network(files.network, machine)
    if files.sd3 is None:
        from plain_sr.embedded import EmbeddedBackbone

        return EmbeddedBackbone(machine)
    from osediff_sd3 import OSEDiffSD3

    tile_sizes = tiles(options)
    stand_ins = None
    if files.quantized:
        from int8.run_part import stand_ins as load_sessions

        stand_ins = load_sessions(files.quantized, files.sd3.vae_config, tile_sizes)
    xformers = options.enable_xformers_memory_efficient_attention
    return OSEDiffSD3(files.sd3, machine, tile_sizes, stand_ins, xformers, options.compile)
