"""A signal ends a program politely, whatever Python makes of it on its way."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

from command.console import run_command

# Python 3.11 makes a RuntimeError of what is raised in there, as while a module with an enum is imported.
KILLED_WITHIN_SET_NAME = """
import os, signal
from machine import interrupts
interrupts.listen("bye")

class Member:
    def __set_name__(self, owner, name):
        os.kill(os.getpid(), signal.SIGTERM)

class Enum:
    member = Member()
"""


def test_a_signal_that_became_another_error_is_still_a_polite_end():
    command = [sys.executable, "-c", KILLED_WITHIN_SET_NAME]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (143, "bye")


@pytest.mark.posix
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_was_interrupted_says_so_and_not_what_broke_over_it(capsys, number):
    def run(_arguments):
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            raise RuntimeError("Error calling __set_name__") from None

    assert run_command("command.py", [], run) == 128 + number
    assert capsys.readouterr().err == "command.py: interrupted\n"


def test_an_error_without_a_signal_is_none_of_its_business():
    def run(_arguments):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command("command.py", [], run)
