"""The files of a run: its result, the loss curves, pictures on the way, an animation of it."""

import dataclasses
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nstlib import UserError, animation, images, paths
from nstlib.display import loss_curves, rendered
from nstlib.paths import why
from nstlib.provenance import metadata
from nstlib.settings import check_fields, option

log = logging.getLogger("nst")

SIZE = 640  # longest side of a time-lapse in pixels, at most
FRAMES = 25  # at most, of each scale; 51 in all for 1000 iterations in 3 scales
FRAME, FIRST, LAST = 100, 500, 2000  # how long frames are seen, in milliseconds


@dataclass
class Outputs:
    """What is written of a run, each an option; none of it changes the picture.

        outputs = Outputs("out.jpg", timelapse="run.gif")
        outputs.check(["photo.jpg", "painting.jpg"], settings.size)
        result = nst.stylize("photo.jpg", "painting.jpg", settings, on_step=outputs.add)
        outputs.save(result)

    Pictures on the way go into a folder beside the result, out_steps/000100.jpg and so on, each as
    the result would be if the run ended there.
    """

    result: str = option(
        dataclasses.MISSING,
        f"where the result goes ({' '.join(images.FORMATS)})",
        *("-r",),
        metavar="FILE",
        action="once",
        group="pictures",
    )
    save_every: int = option(
        *(0, "save the picture so far every so many iterations"),
        at_least=0,
        group="what to write beside the result",
    )
    timelapse: str | None = option(None, "animation of the run (.gif, .webp or .mp4)")
    plot: str | None = option(None, "the loss curves as a picture")
    depth: int = option(
        8, "bits a channel, 16 for .png and .tif", one_of=images.DEPTHS, group="pictures"
    )

    def __post_init__(self):
        check_fields(self)
        self.result = str(self.result)
        self._frames: list[Image.Image] = []
        self._scale = self._position = None
        self._start = 0

    @property
    def folder(self) -> Path:
        """Where pictures on the way go."""
        return Path(self.result).with_name(f"{Path(self.result).stem}_steps")

    def check(self, sources: Iterable[str | Path] = (), size: int = 0) -> None:
        """Say what will be replaced, and raise UserError for what could not be written.

        sources: files that must not be replaced; size: the result's longest side. Changes nothing.
        """
        sources = [*sources]
        taken = [*sources]
        images.check_result_path(self.result, taken)
        images.check_format(self.result, size, self.depth)
        taken.append(self.result)
        if self.timelapse:
            images.check_result_path(self.timelapse, taken, animation.FORMATS)
            taken.append(self.timelapse)
            animation.check(self.timelapse)
        if self.plot:
            images.check_result_path(self.plot, taken)
        earlier = self._check_folder(sources) if self.save_every else []
        warn_of_replacing(self.result, self.timelapse, self.plot)
        if earlier:
            log.warning("%d earlier pictures in %s will be replaced", len(earlier), self.folder)

    def add(self, step) -> None:
        """Take an nst.Step; call it for every iteration."""
        if not step.iteration:  # of another run, perhaps
            self._frames, self._scale = [], None
        if self.save_every and step.iteration and step.iteration % self.save_every == 0:
            self._save_picture(step)
        if self.timelapse and self._is_due(step):
            self._append(step.picture(min(SIZE, step.settings.size)))

    def save(self, result) -> None:
        """Write what an nst.Result has, the picture first."""
        result.save(self.result, self.depth)
        if self.timelapse:
            self._save_timelapse(Path(self.timelapse), result.image)
        if self.plot:
            images.save(self.plot, np.asarray(rendered(loss_curves(result.losses))))

    def _save_timelapse(self, path: Path, image: np.ndarray) -> None:
        """Write the animation, which ends with the result, uint8 [H, W, 3]."""
        height, width = image.shape[:2]
        width, height = images.size_to_fit(width, height, min(SIZE, max(height, width)))
        self._append(images.to_uint8(images.resize(image, height, width)))
        durations = [FRAME] * len(self._frames)
        durations[0], durations[-1] = FIRST, LAST
        try:
            with paths.replacing(path.resolve()) as file:
                animation.write(file, self._frames, durations, path.suffix.lower())
        except Exception as error:  # Pillow raises ValueError and others besides OSError
            raise UserError(f"cannot write {path}: {why(error)}; {self.result} is whole") from error

    def _is_due(self, step) -> bool:
        """Whether to take a frame: at cubic distances from the first iteration of each scale.

        At each scale the picture changes fast at first and ever more slowly after; so measured,
        the frames of a run are nearly equally far apart.
        """
        if step.tensor.shape != self._scale:
            self._scale, self._start, self._position = step.tensor.shape, step.iteration, None
        share = (step.iteration - self._start) / step.settings.num_iter
        last, self._position = self._position, min(FRAMES - 1, int(FRAMES * share ** (1 / 3)))
        return self._position != last

    def _append(self, frame: np.ndarray) -> None:
        height, width = frame.shape[:2]  # of which H.264 wants even ones
        picture = Image.fromarray(frame[: height // 2 * 2, : width // 2 * 2])
        if str(self.timelapse).lower().endswith(".gif"):
            picture = picture.quantize()  # Pillow would, but all at the end
        self._frames.append(picture)

    def _check_folder(self, sources: Iterable[str | Path]) -> list[Path]:
        """The pictures of an earlier run, which those of this one are to replace."""
        if not paths.check_folder(self.folder):
            return []
        images.check_result_path(self.folder / f"{0:06}{Path(self.result).suffix}")
        return self._earlier_pictures(sources)

    def _earlier_pictures(self, sources: Iterable[str | Path] = ()) -> list[Path]:
        """Those with such names; raises UserError where one is a source, or not this program's."""
        earlier = [
            path
            for path in paths.files_in(self.folder)
            if re.fullmatch(r"\d{6,}", path.stem) and path.suffix.lower() in images.FORMATS
        ]
        for path in earlier:
            for source in sources:
                if paths.is_same(path, source):
                    raise UserError(
                        f"cannot save pictures in {self.folder}: {source} would be replaced; "
                        "choose another --result"
                    )
            if images.is_foreign(path):
                raise UserError(
                    f"cannot save pictures in {self.folder}: {path} was not made by this program; "
                    "move it or choose another --result"
                )
        return earlier

    def _save_picture(self, step) -> None:
        try:
            self.folder.mkdir(exist_ok=True)
            if step.iteration == self.save_every:  # the first: none of an earlier run among them
                for path in self._earlier_pictures():
                    path.unlink()
            digits = max(6, len(str(step.settings.num_iter)))
            path = self.folder / f"{step.iteration:0{digits}}{Path(self.result).suffix}"
            picture = step.picture(exact=self.depth > 8)
            made = step.settings, step.losses, step.iteration, self.depth
            images.save(path, picture, metadata(step.sources, path, *made), self.depth)
        except (OSError, UserError) as error:
            if isinstance(error, OSError):
                error = f"cannot save pictures in {self.folder}: {why(error)}"
            log.warning("%s; the run goes on without saving more such pictures", error)
            self.save_every = 0


def warn_of_replacing(*files: str | Path | None) -> None:
    """Log which of these files are there already."""
    for path in files:
        if path and paths.exists(path):
            log.warning("%s is there already and will be replaced", path)
