"""int8 ONNX sessions that stand in for SD3's parts, behind the same call (`sd3.spec`)."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from errors import InputError
from int8.find_parts import MODEL, QuantizedParts
from machine.memory import Size, out_of_memory
from machine.onnx_session import providers_of
from sd3.spec import VAE_PARTS
from zoom.settings import Tiles

if TYPE_CHECKING:
    import torch

    from sd3.networks import Loader

logger = logging.getLogger(__name__)

SESSION_CONFIG = {
    # without VNNI, an x86's sums of unsigned times signed 8 bits leave their range, in silence; this computes
    # with unsigned weights there, and changes nothing elsewhere
    "session.x64quantprecision": "1",
    # it makes a Gemm of a product of two axes and its bias before 8-bit products are looked for, and none is
    # found any more: the weight would be multiplied out at every call
    "optimization.disable_specified_optimizers": "MatMulAddFusion",
}
HIDDEN = "hidden_states."  # and a number from 0: a CLIP's hidden states, but for the last one


def refuse_what_does_not_open(found: QuantizedParts) -> None:
    """Leave to PyTorch the parts that onnxruntime has something against.

    Tried before the run begins, so that run.json says what made the pixels. Without onnxruntime's
    optimizations a session opens in a moment and maps the weights instead of reading them.
    """
    import onnxruntime

    for component, folder in list(found.folders.items()):
        options = session_options()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            onnxruntime.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base but this
            if out_of_memory(error):
                raise InputError(f"{folder}: not enough memory to open it; leave out --quantize") from None
            found.refuse(component, f"{folder} does not open ({' '.join(str(error).split())[:200]})")


def stand_ins(
    found: QuantizedParts, vae_config: Mapping[str, Any], tiles: Tiles
) -> "dict[str, tuple[Loader, Size]]":
    """Return a loader for each part found and what it takes in memory, for `osediff_sd3.OSEDiffSD3`.

    Args:
        found: parts that can stand in.
        vae_config: config.json of SD3's VAE.
        tiles: sizes beyond which the VAE works tile by tile.
    """

    def loader(component: str, folder: Path) -> "Loader":
        return lambda device: open_part(folder, component, device, vae_config, tiles)

    taken = found.bytes()
    return {
        component: (loader(component, folder), Size(0, taken[component]))
        for component, folder in found.folders.items()
    }


def session_options() -> Any:
    """Return an `onnxruntime.SessionOptions` with which int8 parts are right and quick on every CPU."""
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are about its own optimizations
    options.intra_op_num_threads = torch.get_num_threads()
    for name, value in SESSION_CONFIG.items():
        options.add_session_config_entry(name, value)
    return options


class OnnxPart:
    """One part as an ONNX session, called with tensors like PyTorch's.

    Attributes:
        session: an `onnxruntime.InferenceSession`.
        device: where tensors are answered.
    """

    def __init__(self, folder: Path, device: "torch.device") -> None:
        """Open a session on the CUDA device where onnxruntime has its provider, else on the CPU."""
        import onnxruntime

        providers = providers_of(device)
        self.session: Any = onnxruntime.InferenceSession(
            str(folder / MODEL), session_options(), providers=providers
        )
        if len(providers) > 1 and self.session.get_providers()[0] != "CUDAExecutionProvider":
            logger.warning("onnxruntime's CUDA provider does not load here (its CUDA is another?): CPU")
        self.device = device
        self._inputs = {value.name: value.type for value in self.session.get_inputs()}
        self._outputs = [value.name for value in self.session.get_outputs()]
        hidden = [name for name in self._outputs if name.startswith(HIDDEN)]
        if hidden:  # of a CLIP's, SD3 wants the penultimate one, and the pooled projection
            self._outputs = [hidden[-1], "text_embeds"]

    def __call__(self, *inputs: "torch.Tensor") -> "torch.Tensor | tuple[torch.Tensor, ...]":
        """Run the session; floating-point inputs of any dtype, outputs fp32 on `device`."""
        import torch

        feed = {
            name: (tensor.long() if kind == "tensor(int64)" else tensor.float()).cpu().numpy()
            for (name, kind), tensor in zip(self._inputs.items(), inputs, strict=True)
        }
        arrays = self.session.run(self._outputs, feed)
        outputs = tuple(torch.from_numpy(array).to(self.device) for array in arrays)
        return outputs if len(outputs) > 1 else outputs[0]


class OnnxVae:
    """A half of the VAE as an ONNX session, with diffusers' own tiling for large pictures around it."""

    def __init__(self, part: OnnxPart, component: str, config: Mapping[str, Any], tiles: Tiles) -> None:
        """Put the session in the place of diffusers' network.

        Args:
            part: the session.
            component: vae_encoder or vae_decoder.
            config: the VAE's config.json.
            tiles: sizes beyond which it works tile by tile.
        """
        import torch

        from sd3.networks import build_on_meta
        from sd3.tiles import tile_vae

        class Session(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> Any:
                return part(x)

        # the 1x1 convolutions beside the networks, which SD3 has not, are part of the session
        self.vae: Any = build_on_meta(
            component, {**config, "use_quant_conv": False, "use_post_quant_conv": False}
        )
        self._encodes = component == "vae_encoder"
        if self._encodes:
            self.vae.encoder = Session()
        else:
            self.vae.decoder = Session()
        tile_vae(self.vae, component, tiles)

    def __call__(self, x: "torch.Tensor") -> Any:
        """Return the moments of a picture, or the picture of a latent."""
        if self._encodes:
            return self.vae.encode(x).latent_dist.parameters
        return self.vae.decode(x, return_dict=False)[0]


def open_part(
    folder: Path, component: str, device: "torch.device", vae_config: Mapping[str, Any], tiles: Tiles
) -> OnnxPart | OnnxVae:
    """Open a quantized part.

    Args:
        folder: with model.onnx.
        component: one of `sd3.spec.PARTS`.
        device: where it computes and answers.
        vae_config: config.json of SD3's VAE.
        tiles: of the VAE.

    Raises:
        InputError: onnxruntime has something against the file, which it had not when the run began.
    """
    try:
        part = OnnxPart(folder, device)
    except Exception as error:  # onnxruntime's exceptions have no common base but this
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: does not open any more ({reason}); run the same command again") from None
    return OnnxVae(part, component, vae_config, tiles) if component in VAE_PARTS else part
