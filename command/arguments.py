"""How the commands read their arguments, and say in one line what is wrong with them."""

import argparse
import difflib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from command.console import say
from command.version import program_version
from errors import InputError

# What argparse says, and how it is said here: {0} stands for the option.
_SAYINGS = (
    (r"expected one argument", "{0} wants a value"),
    (r"expected (\d+) arguments?", "{0} wants {1} values"),
    (r"expected at least one argument", "{0} wants at least one value"),
    (r"expected at most one argument", "{0} takes one value at most"),
    (r"ignored explicit argument .*", "{0} takes no value"),
    (r"not allowed with argument (?:\S*/)?(\S+)", "{0} and {1} contradict each other; give one"),
)
AUTO = "auto"  # what an option's value is left to
_REQUIRED = "the following arguments are required: "


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show every default, and keep the examples' line breaks."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", False) or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """A command's options, ``--version`` among them.

    Args:
        prog: name of the script.
        usage: what follows it on the first line of ``--help``.
        description, epilog: before and after the options there.
    """

    def __init__(self, prog: str, usage: str, description: str, epilog: str) -> None:
        super().__init__(
            prog=prog,
            usage=f"{prog} {usage}",
            description=description,
            epilog=epilog,
            formatter_class=Help,
            allow_abbrev=False,
        )
        self.register("type", int, whole_number)
        self.register("type", float, number)
        self.add_argument("--version", action=_Version, nargs=0, help="say which version this is")

    def parse_args(self, args: Sequence[str], namespace: Any = None) -> Any:  # type: ignore[override]
        """Read the arguments, in any order; what follows ``--`` is taken for no option.

        Args:
            args: as the user gives them: ``-`` may stand for ``_`` in the names of options.
            namespace: to put the values into; a new one where None.

        Raises:
            InputError: one is wrong; in one line.
            SystemExit: for ``--help`` and ``--version``.
        """
        end = args.index("--") if "--" in args else len(args)
        words, paths = _underscored(args[:end]), args[end + 1 :]
        for word in words:  # argparse would take -output_dir for -o with the value utput_dir
            meant = "--" + word[1:].partition("=")[0].replace("-", "_")
            if re.match("-[a-z]", word) and meant in self._option_string_actions:
                raise InputError(f"there is no option {word}; did you mean {meant}?")
        if paths:  # argparse goes through twice, and has forgotten the -- when it comes to -odd.jpg
            words += ["--", *(f"./{path}" if path.startswith("-") else path for path in paths)]
        options, left = self.parse_known_intermixed_args(words, namespace)
        for word in left:
            if word.startswith("-") and word != "-":
                name = word.partition("=")[0]
                near = did_you_mean(name, self._option_string_actions) if len(name) > 2 else ""
                raise InputError(f"there is no option {name}{near}")
        if left:
            raise InputError(f"{left[0]}: is one argument too many; --help lists what there is")
        return options

    def error(self, message: str) -> Any:
        """Say what is wrong in one line, in words that name the option as the user knows it.

        Raises:
            InputError: always.
        """
        if message.startswith(_REQUIRED):
            missing = message.removeprefix(_REQUIRED)
            raise InputError(f"{missing} is missing; --help says what it is")
        match = re.fullmatch(r"argument (?:\S*/)?(\S+): (.*)", message, re.DOTALL)
        if match is None:
            raise InputError(message)
        option, said = match.groups()
        for pattern, words in _SAYINGS:
            found = re.fullmatch(pattern, said, re.DOTALL)
            if found is not None:
                raise InputError(words.format(option, *found.groups()))
        raise InputError(f"{option}: {said}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Say it where a value is none of an option's choices."""
        if action.choices is None or value in action.choices:
            return
        *names, last = map(str, action.choices)
        near = did_you_mean(str(value), [*names, last])
        raise argparse.ArgumentError(action, f"must be {', '.join(names)} or {last}, not '{value}'{near}")


class _Version(argparse.Action):
    """``--version``: looked up only where it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        say(f"{parser.prog} (Chain-of-Zoom) {program_version()}")
        parser.exit()


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence: what a misspelled word may mean; empty where nothing is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _underscored(arguments: Sequence[str]) -> list[str]:
    """Accept ``-`` for ``_`` in option names: ``--rec-num=4`` as ``--rec_num=4``."""
    result = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if re.fullmatch(r"--[\w-]+", name):  # with a space in it, it is another option's value
            argument = "--" + name[2:].replace("-", "_") + equals + value
        result.append(argument)
    return result


def matched(paths: Sequence[Path]) -> Iterator[Path]:
    """Put the files in the place of patterns such as ``photos/*.jpg``: the shells of Windows do not.

    A path that is there, or that nothing matches, stays as it is. Brackets stand for themselves: they are
    common in names. Files that begin with a dot are left out, as shells do.
    """
    for path in paths:
        pattern, files = str(path.relative_to(path.anchor)), []
        if re.search("[*?]", pattern) and not os.path.lexists(path):
            found = Path(path.anchor).glob(pattern.replace("[", "[[]"))
            files = sorted(file for file in found if not file.name.startswith("."))
        yield from files or [path]


def width_and_height(text: str) -> tuple[int, int]:
    """Read ``768x512``, or ``512`` for a square."""
    width, by, height = text.lower().partition("x")
    try:
        return int(width), int(height if by else width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a side or WxH in pixels, not '{text}'") from None


def whole_number(text: str) -> int:
    """Read a whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not '{text}'") from None


def number(text: str) -> float:
    """Read a number."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not '{text}'") from None


def batch_size(text: str) -> int | str:
    """Read a number of pictures, or `AUTO`."""
    return text if text == AUTO else at_least(1)(text)


def at_least(least: int) -> Callable[[str], int]:
    """Return what reads a whole number that is not less."""

    def read(text: str) -> int:
        value = whole_number(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {value}")
        return value

    return read
