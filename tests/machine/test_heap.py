"""What the process keeps of the memory that tensors free, measured in processes of their own."""

import platform
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries do as they like")

FREES_A_TENSOR = """
import re
import torch
from machine.heap import give_back_freed_memory, keep_freed_memory

def resident():
    return int(re.search("VmRSS:\\\\s*(\\\\d+)", open("/proc/self/status").read())[1]) / 1024  # MiB

{before}
start = resident()
tensor = torch.ones(64, 2**20)  # 256 MiB
del tensor
{after}
print(resident() - start)
"""


def left(before: str, after: str = "") -> float:
    """Return how many MiB more are resident after a tensor of 256 MiB was made and freed."""
    code = FREES_A_TENSOR.format(before=before, after=after)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_freed_memory_is_kept_for_the_next_tensor():
    assert left(before="keep_freed_memory()") > 250


def test_without_it_the_system_has_it_back_at_once():
    assert left(before="") < 50


def test_what_was_kept_is_given_back_when_a_network_leaves():
    assert left("keep_freed_memory()", "from machine.memory import return_memory; return_memory()") < 50


def test_where_there_is_no_glibc_nothing_is_done(monkeypatch):
    from machine import heap

    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())
    heap.keep_freed_memory()
    heap.give_back_freed_memory()
