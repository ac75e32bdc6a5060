"""A critic behind an OpenAI-compatible server: vLLM, llama.cpp, Ollama, whatever speaks their protocol."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from errors import InputError
from prompts.vlm_server import ServerFailure, VlmServer
from training.critics import LONGEST_VERDICT, Candidate, Verdict, messages, verdict_of


class ServerCritic:
    """Asks a server for scores, several questions at once.

    Args:
        url: the API's base.
        model: its name there; None takes the server's only one.
        timeout: seconds for one try.
        tries: of one question.
        at_once: questions in flight.

    Raises:
        InputError: the address cannot be one.
    """

    def __init__(self, url: str, model: str | None, timeout: float, tries: int, at_once: int) -> None:
        with _own_options():
            self.server = VlmServer(url, model, timeout, tries)
        self.at_once = at_once

    def begin(self) -> None:
        """Ask whether the server is there and has the model.

        Raises:
            InputError: it is not, or has not.
        """
        with _own_options():
            self.server.check()

    def __call__(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """Return a verdict for each candidate, in order."""
        with ThreadPoolExecutor(self.at_once) as pool:
            return list(pool.map(self._verdict, candidates))

    def _verdict(self, candidate: Candidate) -> Verdict:
        try:
            return verdict_of(self.server.ask(messages(candidate), LONGEST_VERDICT))
        except ServerFailure as failure:
            return Verdict(None, str(failure))

    def describe(self) -> dict[str, object]:
        """Name the model, wherever it is served."""
        return {"critic": "server", "model": self.server.model}


@contextmanager
def _own_options() -> Iterator[None]:
    """Call the client's options what they are called here."""
    try:
        yield
    except InputError as error:
        message = str(error).replace("--vlm_url", "--critic").replace("--vlm_model", "--critic_model")
        raise InputError(message) from None
