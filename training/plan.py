"""What a training would do and what it takes: the lines of ``--dry_run``."""

from collections.abc import Iterator, Sequence

from prompts.vlm_files import VlmFiles, linear_layers
from results.pictures import Failure
from training.critics import Critic
from training.data import Item, PictureItem
from training.settings import TrainingSettings
from training.takes import TRAINED, what_it_takes


def plan(
    settings: TrainingSettings,
    files: VlmFiles,
    critic: Critic,
    items: tuple[Sequence[Item], Sequence[Item]],
    failures: Sequence[Failure],
    item: int,
    done: int,
) -> Iterator[str]:
    """Yield the lines.

    Args:
        settings: checked.
        files: of the extractor.
        critic: nothing of it loaded.
        items: what is trained on, and what is held out.
        failures: pictures that cannot be used.
        item: bytes of a weight of the extractor.
        done: steps of an earlier training into the folder.
    """
    for name, some in zip(("trained on", "held out"), items, strict=True):
        pictures = sum(isinstance(one, PictureItem) for one in some)
        yield f"{name:<11}{pictures} pictures, {len(some) - pictures} steps of finished runs"
    for failure in failures:
        yield f"           {failure.label}: {failure.reason}"
    takes = what_it_takes(
        files.model.config, files.model.parameters, linear_layers(files.model.tensors), settings, item
    )
    asked = "a state and its crop" if settings.two_pictures else "the crop alone"
    yield f"extractor  {files.name}, asked about {asked}; {files.model.parameters / 1e6:,.0f} M parameters"
    yield (
        f"adapter    {takes.trained / TRAINED / 1e6:,.1f} M parameters: rank {settings.lora_rank}, alpha "
        f"{settings.lora_alpha}, dropout {settings.lora_dropout:g}"
    )
    described = critic.describe()
    yield f"critic     {' '.join(str(value) for value in described.values() if value is not None)}"
    rewards = ", ".join(f"{weight:g} {name}" for name, weight in settings.weights.items())
    yield f"rewards    {rewards}; excluded: {', '.join(settings.excluded_phrases)}"
    yield (
        f"a step     {settings.prompts_per_step} questions, {settings.num_generations} answers each, "
        f"{settings.batch_size} a pass, processes: {settings.processes}; {takes.tokens:,} tokens and "
        f"{takes.flops / 1e12:,.1f} TFLOP in each (computed)"
    )
    yield f"steps      {settings.steps}, of which {done} are done"
    yield (
        f"memory     {takes.peak / 1e9:.1f} GB without the critic (computed): weights "
        f"{takes.weights / 1e9:.1f}, adapter and optimizer {takes.trained / 1e9:.1f}, sampling "
        f"{takes.generating / 1e9:.1f} or learning {takes.learning / 1e9:.1f}"
    )
