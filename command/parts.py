"""Which prompt extractor and which SR backbone the options ask for, with their files checked first.

Nothing heavy is imported before every file is known to be there and of the right kind, and nothing heavy is
loaded at all: the parts load their models when the chain first uses them.
"""

import logging
from argparse import Namespace
from dataclasses import dataclass
from typing import TYPE_CHECKING

from errors import InputError
from machine.stage_times import StageTimes

if TYPE_CHECKING:
    from int8.run_part import FoundParts
    from machine.residency import DevicePlan, Residency
    from prompts.extractors import DapeExtractor
    from zoom.chain import PromptExtractor, SRBackbone

log = logging.getLogger(__name__)


@dataclass
class Parts:
    """What the chain works with.

    Attributes:
        extractor, backbone: None where the chain only resizes.
        residency: where their models are; None where the chain only resizes.
        plan: the devices; None where the chain only resizes.
        quantized: the int8 ONNX parts that stand in for SD3's; None without ``--quantize``.
    """

    extractor: "PromptExtractor | None" = None
    backbone: "SRBackbone | None" = None
    residency: "Residency | None" = None
    plan: "DevicePlan | None" = None
    quantized: "FoundParts | None" = None


def choose_parts(options: Namespace, times: StageTimes) -> Parts:
    """Check the files, then build the prompt extractor and the SR backbone.

    Args:
        options: as `options.parse` returns them: ``backbone`` and ``prompt_type`` are decided there.
        times: shared by all parts.

    Raises:
        InputError: a file is missing or wrong, or the device is not there.
    """
    quantized = check_files(options)
    from machine.residency import Residency, plan_devices

    plan = plan_devices(options.device, options.efficient_memory)
    residency = Residency(options.efficient_memory, times)
    extractor = _choose_extractor(options, plan, residency, times)
    backbone = _choose_backbone(options, plan, residency, times, quantized)
    for shortage in residency.shortages(options.batch_size, options.process_size):
        log.warning("%s", shortage)
    return Parts(extractor, backbone, residency, plan, quantized)


def check_files(options: Namespace) -> "FoundParts | None":
    """Check the files of every part without importing anything heavy.

    Models named as on the hub are fetched here, but not for a dry run.

    Returns:
        The quantized parts that are fit for this run; None without ``--quantize``.

    Raises:
        InputError: the first file that is missing or wrong.
    """
    download = not options.dry_run
    quantized = None
    if options.backbone == "sd3":
        from sd3.checkpoint import check_sd3

        model, lora_path, vae_path = (
            options.pretrained_model_name_or_path,
            options.lora_path,
            options.vae_path,
        )
        if options.quantize:
            from int8.run_part import find_parts

            quantized = find_parts(options.quantized_dir, model, lora_path, vae_path, download)
            for warning in quantized.warnings(options.quantized_dir):
                log.warning("%s", warning)
        replaced = quantized.folders if quantized else ()
        check_sd3(model, lora_path, vae_path, options.lora_rank, replaced, download)
    if options.prompt_type == "dape":
        _check_ram(options)
    if options.prompt_type == "vlm":
        from prompts.qwen_vl import check_vlm_folder

        check_vlm_folder(options.vlm_path, options.vlm_lora_path, download)
    return quantized


def _check_ram(options: Namespace) -> None:
    from ram.files import check_ram_files

    check_ram_files(options.ram_path, options.ram_ft_path, options.ram_tags, options.ram_thresholds)


def _choose_extractor(
    options: Namespace, plan: "DevicePlan", residency: "Residency", times: StageTimes
) -> "PromptExtractor":
    from machine.residency import choose_dtype
    from prompts.extractors import NullExtractor, VlmExtractor

    if options.prompt_type == "null":
        return NullExtractor()
    if options.prompt_type == "dape":
        return _dape(options, plan, residency, times)
    fallback = None
    if options.ram_path is not None:
        try:
            _check_ram(options)
            fallback = _dape(options, plan, residency, times)
        except InputError as error:
            if options.ram_given:
                raise
            log.warning("an answer of the VLM that is no prompt will be left empty, without RAM: %s", error)
    from prompts.qwen_vl import check_vlm_folder

    stored = check_vlm_folder(options.vlm_path, options.vlm_lora_path).dtype
    return VlmExtractor(
        options.vlm_path,
        options.vlm_lora_path,
        residency,
        plan.vlm,
        choose_dtype(options.mixed_precision, plan.vlm, stored),
        options.max_new_tokens,
        options.batch_size,
        times,
        fallback,
    )


def _dape(
    options: Namespace, plan: "DevicePlan", residency: "Residency", times: StageTimes
) -> "DapeExtractor":
    from machine.residency import choose_dtype
    from prompts.extractors import DapeExtractor

    return DapeExtractor(
        options.ram_path,
        options.ram_ft_path,
        options.ram_tags,
        options.ram_thresholds,
        residency,
        plan.vlm,
        choose_dtype(options.mixed_precision, plan.vlm),
        options.batch_size,
        times,
    )


def _choose_backbone(
    options: Namespace,
    plan: "DevicePlan",
    residency: "Residency",
    times: StageTimes,
    quantized: "FoundParts | None",
) -> "SRBackbone":
    if options.backbone == "embedded":
        from machine.residency import choose_dtype
        from plain_sr.esrgan import EmbeddedBackbone

        dtype = choose_dtype(options.mixed_precision, plan.sr)
        return EmbeddedBackbone(plan.sr, dtype, options.batch_size, times)
    from osediff_sd3 import OSEDiffSD3, Tiles

    tiles = Tiles(
        vae_encoder=options.vae_encoder_tiled_size,
        vae_decoder=options.vae_decoder_tiled_size,
        latent=options.latent_tiled_size,
        latent_overlap=options.latent_tiled_overlap,
    )
    loaders = {}
    if quantized:
        from int8.run_part import stand_ins

        loaders = stand_ins(quantized, options.pretrained_model_name_or_path, tiles)
    return OSEDiffSD3(
        options.pretrained_model_name_or_path,
        options.lora_path,
        options.vae_path,
        plan=plan,
        residency=residency,
        times=times,
        mixed_precision=options.mixed_precision,
        batch_size=options.batch_size,
        tiles=tiles,
        lora_rank=options.lora_rank,
        xformers=options.enable_xformers_memory_efficient_attention,
        stand_ins=loaders,
        stand_in_bytes=quantized.bytes() if quantized else None,
    )
