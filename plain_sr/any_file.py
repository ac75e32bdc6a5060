"""``--backbone FILE``: which kind of network a file holds, told by its ending."""

from pathlib import Path

from errors import InputError
from machine.machine import Machine
from plain_sr.file_network import FILE_ENDINGS, CheckedFile, FileNetwork, check_file_network
from plain_sr.onnx_network import ONNX_ENDING, CheckedOnnx, OnnxNetwork, check_onnx_network
from zoom.protocols import SRBackbone

NETWORK_ENDINGS = (*FILE_ENDINGS, ONNX_ENDING)

CheckedNetwork = CheckedFile | CheckedOnnx


def check_network(path: Path) -> CheckedNetwork:
    """See that a file can be an SR network, without importing torch.

    Raises:
        InputError: one line that says what is wrong with it.
    """
    ending = path.suffix.lower()
    if ending not in NETWORK_ENDINGS:
        raise InputError(f"{path}: --backbone takes files that end in {', '.join(NETWORK_ENDINGS)}")
    return check_onnx_network(path) if ending == ONNX_ENDING else check_file_network(path)


def build_network(checked: CheckedNetwork, machine: Machine) -> SRBackbone:
    """Build the backbone of a file; its network is loaded when the first step comes.

    Args:
        checked: from `check_network`.
        machine: whose SR device, residency, precision and batches are used.

    Raises:
        InputError: one line: what the file holds is no SR network, or a package for it is missing.
    """
    if isinstance(checked, CheckedOnnx):
        return OnnxNetwork(checked, machine)
    return FileNetwork(checked, machine)
