"""What can be chosen about the method, with its defaults; no Pillow, no torch, so that help stays quick."""

from dataclasses import dataclass

from errors import InputError

RESIZE_KINDS = ("nearest", "bicubic")
RECURSIVE_KINDS = ("recursive", "recursive_multiscale")
KINDS = (*RESIZE_KINDS, "onestep", *RECURSIVE_KINDS)
SOURCES = ("native", "shrunk")
TILE_PROMPTS = ("tile", "picture")
ALIGN_METHODS = ("nofix", "adain", "wavelet", "backproject", "lowfreq")
SAVE = ("states", "all")  # of each picture: every state once, or also copies by scale, strips and SR inputs
TEXTURE = 0.5  # of networks that only copy what is there
MOST_STEPS = 100
MOST_SPOTS = 100  # of a picture, that are found by themselves
SMALLEST_STATE = 64  # pixels a side
# Pictures of 512x512 that go through a scale together under --efficient_memory. Each big model moves once a
# scale for so many; their states (1 MB each) and text embeddings (10 MB a prompt in fp32) wait in memory.
GROUP = 32
MOST_BY_ITSELF = 16  # pictures a forward pass that are chosen where nobody says how many


@dataclass(frozen=True)
class ChainSettings:
    """What the chain itself decides.

    Attributes:
        rec_type: one of `KINDS`.
        rec_num: number of steps.
        upscale: factor a step.
        process_size: width and height of a state in pixels.
        source: one of `SOURCES`: ``native`` zooms into the picture's own pixels as long as a window holds
            enough of them, ``shrunk`` into state 0 alone, as published.
        center: the point that the windows are centred on, as fractions of the picture as it is seen; None for
            the middle of every state, as published. A spot's own goes before it.
        box: left, top, right, bottom of the part of the picture that is zoomed into, as such fractions; None
            for all of it.
        full_image: every step enlarges the whole picture; nothing is cut out, and ``process_size`` is not
            the states' but that of the strip's cells.
        tile_prompts: one of `TILE_PROMPTS`: with ``full_image``, what a prompt is about.
        texture: 0 to 1, see `zoom.texture`; 0 for networks that make their own.
        align_method: one of `ALIGN_METHODS`, see `zoom.color_fix.fix_colors`.
        prompt: the user's words.
        seed: all noise derives from it, the names of the file and of the spot, and the step.
    """

    rec_type: str = "recursive_multiscale"
    rec_num: int = 4
    upscale: int = 4
    process_size: tuple[int, int] = (512, 512)
    source: str = "native"
    center: tuple[float, float] | None = None
    box: tuple[float, float, float, float] | None = None
    full_image: bool = False
    tile_prompts: str = "picture"
    texture: float = 0.0
    align_method: str = "nofix"
    prompt: str = ""
    seed: int = 42

    @property
    def resizes_only(self) -> bool:
        """No prompt and no SR backbone takes part."""
        return self.rec_type in RESIZE_KINDS

    @property
    def from_first_state(self) -> bool:
        """Every step's window is cut out of state 0."""
        return self.resizes_only or self.rec_type == "onestep"

    @property
    def asks_about_two_pictures(self) -> bool:
        """The prompt extractor also sees the whole state that the crop was cut from."""
        return self.rec_type == "recursive_multiscale"

    @property
    def group(self) -> int:
        """Pictures that fit into memory together, see `GROUP`."""
        width, height = self.process_size
        return max(1, GROUP * 512**2 // (width * height))

    def magnification(self, step: int) -> int:
        """Return how many times state `step` shows state 0 enlarged."""
        return self.upscale**step


@dataclass(frozen=True)
class Tiles:
    """Sizes beyond which SD3's networks work tile by tile.

    Attributes:
        vae_encoder: side of the encoder's tiles, in pixels.
        vae_decoder: side of the decoder's tiles, in latent pixels (8 picture pixels each).
        latent: side of the transformer's tiles, in latent pixels; even.
        latent_overlap: pixels that neighbouring transformer tiles share.
    """

    vae_encoder: int = 1024
    vae_decoder: int = 224
    latent: int = 96
    latent_overlap: int = 32

    def __post_init__(self) -> None:
        """Raise InputError where the sizes do not work."""
        for option, size, multiple in (
            ("--vae_encoder_tiled_size", self.vae_encoder, 8),
            ("--vae_decoder_tiled_size", self.vae_decoder, 1),
            ("--latent_tiled_size", self.latent, 2),
        ):
            if size < 16 or size % multiple:
                raise InputError(f"{option} {size}: must be at least 16 and a multiple of {multiple}")
        if not 0 <= self.latent_overlap < self.latent:
            raise InputError(
                f"--latent_tiled_overlap {self.latent_overlap}: must be from 0 to below"
                f" --latent_tiled_size {self.latent}"
            )
