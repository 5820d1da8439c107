"""Which clips a command trains or evaluates on: phantoms, or an annotated data set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from vivim.training.batches import ClipSource, DatasetClips, JudgedVideos, MixedClips, PhantomClips, StillClips
from vivim.training.cache import CacheOptions
from vivim.training.recipe import FitConfig
from vivim_runtime.contract import InputContract
from vivim_runtime.datasets import Classes, Dataset, held_out, open_dataset, training_data
from vivim_runtime.errors import DataError
from vivim_runtime.framing import Framing
from vivim_runtime.phantom import DRAWN, PhantomName
from vivim_runtime.provenance import TrainingData
from vivim_runtime.regions import WHOLE, RegionRule

__all__ = ["ClipOptions"]

# Share of the videos to train on that validates, where the data have no split for it.
_HELD_OUT = 0.1


@dataclass(frozen=True)
class ClipOptions:
    """Where clips are from, and what they are like.

    Fields whose annotation has a text are options of the commands; a recipe says the others.

    Attributes:
        seed: of the split, where it is drawn.
        frames: T.
        size: (H, W) in pixels.
        validation: the split that validates; nothing is held out of train where that is another one.
        trained: what the weights to start from, or to evaluate, were trained on: their splits are kept.
        marked: the classes that weights mark which are judged on these clips.
    """

    data: Annotated[str, "phantom or phantom:screen=mixed (synthetic ultrasound), or the folder of a data set."] = (
        "phantom"
    )
    layout: Annotated[str, "Layout of the folder, if it cannot be detected; docs/data.md."] = "auto"
    split_file: Annotated[Path | None, "Which videos belong to which split; docs/data.md."] = None
    classes: Annotated[
        str | None, "Names of the masks' values: lesion,vessel or 1=lesion,2=vessel; default by the table of the data."
    ] = None
    seed: int = 0
    frames: int = 5
    size: tuple[int, int] = (256, 256)
    stride: Annotated[int, "Frames from one frame of a clip to the next."] = 1
    strides: Annotated[int, "Phantoms: draw the stride of each clip from 1 to this number."] = 1
    region: Annotated[str, "Part of the frames to use: whole, dicom, auto, or X,Y,W,H; docs/contract.md."] = "whole"
    shape: Annotated[str, "How that part is fitted: stretched, or kept (in shape, padded with black)."] = "stretched"
    colour: Annotated[str, "rgb, or grey (the luminance in all channels)."] = "rgb"
    outside: Annotated[str, "Pixels of the region's rectangle outside its outline: kept, or black."] = "kept"
    fps: Annotated[float | None, "Frames per second of the videos, recorded in the contract of the weights."] = None
    stills: Annotated[
        Path | None, "Folder of still pictures with masks to train on as well, each as a clip of identical frames."
    ] = None
    hop: Annotated[int, "Frames from the start of one training clip to the start of the next."] = 1
    cache: Annotated[int, "Megabytes of resized frames to keep in memory."] = 2000
    cache_folder: Annotated[Path | None, "Folder to keep resized frames in, for all processes and later runs."] = None
    cache_disk: Annotated[int, "Megabytes that may be added to --cache-folder."] = 20000
    validation: str = "validation"
    trained: tuple[TrainingData, ...] = ()
    marked: tuple[str, ...] | None = None

    def for_recipe(
        self,
        recipe: FitConfig,
        size: tuple[int, int],
        validation: str = "validation",
        trained: tuple[TrainingData, ...] = (),
    ) -> ClipOptions:
        """These clips as a recipe takes them: its T, and its seed where a split is drawn."""
        return replace(self, seed=recipe.seed, frames=recipe.frames, size=size, validation=validation, trained=trained)

    @property
    def contract(self) -> InputContract:
        """Of the weights that learn from these clips; ModelError for what no contract has."""
        return InputContract(
            self.size,
            self.frames,
            self.frames,
            self.stride,
            region=str(RegionRule.parse(self.region)),
            shape=self.shape,
            colour=self.colour,
            outside=self.outside,
            fps=self.fps,
        )

    @property
    def is_phantom(self) -> bool:
        """Whether the clips are synthetic."""
        return self.data.partition(":")[0] == "phantom"

    @property
    def drawn(self) -> dict[str, Any]:
        """Of phantoms, what their name says of lesions, of what hides them and of the scanner's screen around them;
        UsageError where it says more."""
        return PhantomName.parse(self.data, DRAWN, "phantom:screen=mixed; options say frames and sizes").drawn

    def dataset(self, split: str) -> Dataset:
        """The annotated videos of a split; of data without a validation split, a tenth of those to train on is one."""
        if self.validation == "validation" and split in ("train", "validation") and not self._has_validation():
            kept, apart = held_out(self._opened("train"), _HELD_OUT, self.seed)
            note = f"there is no validation split: {', '.join(video.name for video in apart.videos)} held out of train"
            return replace(kept if split == "train" else apart, notes=(*kept.notes, note))
        return self._opened(split)

    def _opened(self, split: str) -> Dataset:
        return open_dataset(
            self.data, split, self.layout, self.split_file, self.seed, self.trained, self._named, self.marked
        )

    @property
    def _named(self) -> Classes | None:
        return None if self.classes is None else Classes.parse(self.classes)

    def class_names(self, split: str) -> tuple[str, ...] | None:
        """Of the masks of a split, in the order of a network's outputs; None where nothing names them."""
        classes = (
            open_dataset("phantom", classes=self._named).classes if self.is_phantom else self.dataset(split).classes
        )
        return None if classes is None else classes.names

    def _has_validation(self) -> bool:
        try:
            self._opened("validation")
        except DataError:  # whatever else is wrong, opening the split to train on says too
            return False
        return True

    def clips(self, split: str, phantoms: int, fresh: bool = False, makers: int = 1) -> ClipSource:
        """The clips of a split.

        Args:
            phantoms: how many, where they are synthetic.
            fresh: whether every epoch gets other phantoms.
            makers: processes that make clips, which share what may be kept of frames.

        Raises:
            DataError, UsageError: exit code 2.
        """
        if min(self.cache, self.cache_disk) < 0:
            raise DataError(f"--cache is {self.cache} and --cache-disk {self.cache_disk}; expected 0 or more megabytes")
        if min(self.size) < 1 or self.frames < 1:
            raise DataError(f"clips of {self.frames} frames of {self.size[0]}x{self.size[1]}; expected at least 1")
        if self.is_phantom:
            return PhantomClips(
                split,
                phantoms,
                self.frames,
                self.size,
                fresh,
                **self.drawn,
                framing=self._of_phantoms(),
                strides=self.strides,
            )
        kept = self._kept(makers)
        return DatasetClips(self.dataset(split), self.frames, Framing(self.contract), self.stride, self.hop, kept)

    def _kept(self, makers: int) -> CacheOptions:
        each = max(1, makers) * (1 if self.stills is None else 2)  # videos and pictures have a cache each
        return CacheOptions(self.cache * 10**6 // each, self.cache_folder, self.cache_disk * 10**6 // each)

    def with_stills(self, clips: ClipSource, makers: int = 1) -> ClipSource:
        """Clips to train on, and those of the still pictures behind them; DataError where there are none."""
        pictures = self.still_pictures()
        if pictures is None:
            return clips
        return MixedClips(clips, StillClips(pictures, self.frames, Framing(self.contract), self._kept(makers)))

    def still_pictures(self) -> Dataset | None:
        """Pictures to train on beside videos: the split `train` where their folder has splits, else all of them."""
        if self.stills is None:
            return None
        if self.stills.resolve() == Path(self.data).resolve():
            raise DataError(f"--stills and --data are both {self.data}; expected another folder")
        beside = self.class_names("train")
        opened = partial(open_dataset, str(self.stills), classes=self._named, marked=beside)
        found = opened()
        if beside is None and found.classes is not None:
            raise DataError(f"the masks of {self.stills} have classes, and those of {self.data} none; name both")
        return opened("train") if found.split_names else found

    def _of_phantoms(self) -> Framing | None:
        """Phantoms are drawn at the network's size; what is left to do is their colour."""
        contract = replace(self.contract, region=WHOLE, shape="stretched")
        return None if contract.colour == "rgb" else Framing(contract)

    def judged(self, split: str, phantoms: int) -> ClipSource:
        """The clips that judge a network on a split, every frame once; arguments and errors as of `clips`."""
        if self.is_phantom:
            return replace(self, strides=1).clips(split, phantoms)
        return JudgedVideos(self.dataset(split), self.frames, Framing(self.contract), self.stride)

    def record(self, split: str, phantoms: int) -> TrainingData:
        """What weights trained on a split will say of their data.

        Args:
            phantoms: how many are seen in the whole training.
        """
        if self.is_phantom:
            return TrainingData("phantom", "by seeds", {}, phantoms if split == "train" else 0)
        training = self.dataset(split)
        validation = self.dataset(self.validation)
        try:
            test = self.dataset("test").videos
        except DataError:  # there is none
            test = ()
        videos = {"train": training.videos, "validation": validation.videos, "test": test}
        made = dict.fromkeys(filter(None, (training.origin, validation.origin)))
        return training_data(training.name, "; validation ".join(made), videos)

    def record_of_stills(self) -> TrainingData | None:
        """The same of the still pictures."""
        pictures = self.still_pictures()
        return None if pictures is None else training_data(pictures.name, "all trained", {"train": pictures.videos})

    def described(self, clips: ClipSource, split: str) -> str:
        """For people and for the metadata of weights."""
        height, width = self.size
        name = self.data if self.is_phantom else self.dataset(split).name
        stills = f", {len(clips.stills)} of them stills of {self.stills}" if isinstance(clips, MixedClips) else ""
        return f"{name} {split}, {len(clips)} clips of {self.frames}x{height}x{width}{stills}"
