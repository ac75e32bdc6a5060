"""How the commands read their arguments."""

import argparse
from collections.abc import Callable, Sequence


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show every default, and keep the examples' line breaks."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", False) or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)


def underscored(arguments: Sequence[str]) -> list[str]:
    """Accept ``-`` for ``_`` in option names: ``--rec-num=4`` as ``--rec_num=4``."""
    result = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument.partition("=")
            argument = "--" + name[2:].replace("-", "_") + equals + value
        result.append(argument)
    return result


def width_and_height(text: str) -> tuple[int, int]:
    """Read ``768x512``, or ``512`` for a square."""
    width, by, height = text.lower().partition("x")
    try:
        return int(width), int(height if by else width)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a side or WxH in pixels, not '{text}'") from None


def at_least(least: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        number = int(text)
        if number < least:
            raise argparse.ArgumentTypeError(f"must be {least} or more, not {number}")
        return number

    return whole_number
