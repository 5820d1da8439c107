"""The videos that names on the command line stand for: files, folders of them, annotated data sets, phantoms.

Every one is a `Source`, annotated or not: what compares or calibrates models reads them all in one way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from vivim_runtime.datasets import LAYOUTS, open_dataset
from vivim_runtime.datasets.fingerprints import known_data
from vivim_runtime.datasets.videos import AnnotatedVideo, Dataset, Mask, Video
from vivim_runtime.errors import DataError, UsageError
from vivim_runtime.provenance import TrainingData
from vivim_runtime.sources import LiveSource, Source, open_source
from vivim_runtime.sources.base import DEFAULT_FPS, Frame, Image
from vivim_runtime.sources.dicom import DicomFile, is_dicom
from vivim_runtime.sources.names import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_foreign, natural_key

__all__ = ["Opener", "VideoSource", "datasets_of", "videos_of"]

# Opens a video anew, from its first frame on.
Opener = Callable[[], Source]


class VideoSource:
    """A video of a data set as a `Source` whose frames know their truth.

    Attributes:
        size: (0, 0), since nothing is read before frames are asked for.
    """

    fps, size = DEFAULT_FPS, (0, 0)

    def __init__(
        self, video: Video, name: str = "", read: Callable[[int], tuple[Image, Mask | None]] | None = None
    ) -> None:
        """A source called `name`, by default as the video; `read` gives a frame, by default with its mask at any rate.

        With `AnnotatedVideo.read_known` frames without a mask come too, and know no truth.
        """
        self.name = name or video.name
        self.notes = list(video.notes) if isinstance(video, AnnotatedVideo) else []
        self.frame_count: int | None = len(video)
        self._length, self._read = len(video), read or video.read
        self._video = video

    @property
    def dicom(self) -> DicomFile | None:
        """The DICOM file that the frames are from; None of others."""
        return self._video.dicom if isinstance(self._video, AnnotatedVideo) else None

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Frame]:
        """The frames; DataError where one cannot be read."""
        for index in range(self._length):
            image, truth = self._read(index)
            yield Frame(index, index / self.fps, image, truth)

    def __enter__(self) -> VideoSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Every frame closes the file that it is read from.
        return


def _is_annotated(video: AnnotatedVideo) -> bool:
    """Whether a frame of a video has a mask."""
    return any(video.mask(index) is not None for index in range(len(video)))


def videos_of(
    names: Sequence[str], split: str, trained: Sequence[TrainingData] = (), marked: Sequence[str] | None = None
) -> Mapping[str, Opener]:
    """The videos that names stand for, each once.

    A name is one for vivim_runtime.open_source; or a folder of an annotated data set, which stands for the videos of a
    split where its authors or a training made that split, else for all; or `phantom:clips=40`, the phantoms of that
    split; or another folder without images, which stands for the videos, DICOM files and folders of images in it.

    Args:
        split: "train" or "test".
        trained: what weights were trained on, and how that was split.
        marked: the classes that a model marks: of a data set with a table of classes, true masks are of these.

    Raises:
        DataError: a folder that holds nothing to read, or a data set that cannot be told.
    """
    result: dict[str, Opener] = {}
    for name in names:
        if (dataset := _dataset(name, split, trained, marked)) is not None:
            named = {f"{name}, {video.name}": video for video in dataset.videos}
            result |= {label: partial(VideoSource, video, label, video.read_known) for label, video in named.items()}
        elif not Path(name).is_dir():
            result[name] = partial(_opened, name)
        else:
            found = {path: partial(_opened, path) for path in _within(Path(name))}
            if not found:
                raise DataError(f"the folder {name} holds no image, video or DICOM file; give another one")
            result |= found
    return result


def datasets_of(names: Sequence[str], split: str, trained: Sequence[TrainingData] = ()) -> list[Dataset]:
    """The annotated data sets among names, of the videos that `videos_of` gives of them."""
    return [dataset for name in names if (dataset := _dataset(name, split, trained)) is not None]


def _dataset(
    name: str, split: str, trained: Sequence[TrainingData], marked: Sequence[str] | None = None
) -> Dataset | None:
    """The data set that a name stands for; None where it is something else."""
    if name == "phantom" or (name.startswith("phantom:") and "clips=" in name):
        return open_dataset(name, split)
    if not Path(name).is_dir() or not any(layout.fits(Path(name)) for layout in LAYOUTS.values()):
        return None
    dataset = open_dataset(name)
    if dataset.classes is not None:  # by a table; without one, true masks are of one object
        dataset = open_dataset(name, marked=marked)
    else:
        marked = None
    if not any(_is_annotated(video) for video in dataset.videos):
        return None
    known = known_data(dataset.name, dataset.videos, trained)
    if (known and known[0].splits.get(split)) or split in LAYOUTS[dataset.layout].listing(Path(name)).splits:
        return open_dataset(name, split, trained=trained, marked=marked)
    return dataset


def _within(folder: Path) -> list[str]:
    """The videos in a folder, at any depth; folders without any, and those of other programs, are left out."""
    children = sorted((path for path in folder.iterdir() if not is_foreign(path)), key=natural_key)
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in children if path.is_file()):
        return [str(folder)]
    found: list[str] = []
    for path in children:
        if path.is_dir():
            found += _within(path)
        elif path.suffix.lower() in VIDEO_SUFFIXES or is_dicom(path):
            found.append(str(path))
    return found


def _opened(name: str) -> Source:
    source = open_source(name)
    if isinstance(source, LiveSource):
        raise UsageError(f"{name} is live and has no end; record it first (vivim-run writes videos), and give the file")
    return source
