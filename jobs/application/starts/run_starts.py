"""The start file of a run: read and checked before anything is learned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.judges.image_features import ImageFeatures, clip_fingerprint
from pipeline.models.families import family_of
from pipeline.models.find import Model
from pipeline.models.start_encoder import StartEncoder, load_start_encoder
from pipeline.records import OUT, Concept
from pipeline.settings import InversionSettings
from pipeline.store.storage import Storage, StorageError, StorageNotFoundError
from pipeline.training.start_file import MAX_BYTES, StartFile, StartFileError, decode_start_file


@dataclass(frozen=True, slots=True)
class Starts:
    """What words of a run start from, besides their initializers. url: of the file, as given with --start."""

    encoder: StartEncoder | None = None
    file: StartFile | None = None
    url: str = ""

    @property
    def digest(self) -> str:
        """What identifies it in fingerprints; "" for neither."""
        start = self.encoder or self.file
        return start.digest if start else ""

    def features(self, clip: str, device: str) -> ImageFeatures | None:
        if self.file is None:
            return None
        return ImageFeatures(clip, device)

    def said(self, concepts: Sequence[Concept]) -> str | None:
        """One line on concepts of a kind that the file has no map of; None if there are none."""
        if self.file is None:
            return None
        kinds = sorted({each.kind for each in concepts} - self.file.kinds)
        return (
            f"start     {self.url} has no map of {kinds[0]}s: their words start from their initializers"
            if kinds
            else None
        )

    def check_clip(self, clip: str) -> None:
        """Asks a Ray worker for the CLIP's digest, as the driver imports no torch. Raises StartFileError for another CLIP."""
        if self.file is None:
            return
        import ray

        digest = ray.get(ray.remote(num_cpus=1)(clip_fingerprint).remote(clip))
        try:
            self.file.refuse_clip(clip, digest)
        except StartFileError as error:
            raise StartFileError(f"--start {self.url}: {error}") from None


def find_starts(
    settings: InversionSettings, url: str | None, model: Model, concepts: Sequence[Concept], options: Mapping[str, Any]
) -> Starts:
    """url: of a start file, where settings.start is "fitted". Raises ModelError, StorageError and StartFileError."""
    if settings.start == "pictures":
        return Starts(encoder=load_start_encoder(model))
    if settings.start != "fitted":
        return Starts()
    if not url:
        raise StartFileError("the start is 'fitted': it takes a start file, the request's start_file")
    family = family_of(model.family)
    try:
        file = decode_start_file(Storage(url, options).read_bytes(at_most=MAX_BYTES))
        ending = OUT if settings.word_place == "output" else ""
        learned = [
            name
            for name, key in family.word_keys.items()
            if name.endswith(OUT) == bool(ending)
            and (not settings.encoders or key.removesuffix(OUT) in settings.encoders)
        ]
        file.refuse_model(model.name, model.digest, learned)
        file.refuse_concepts([each for each in concepts if not each.word_file])
    except StorageNotFoundError as error:
        raise StartFileError(
            f"--start {url}: {error}; it takes words, statistics, nearest, pictures, or a file"
        ) from error
    except (StartFileError, StorageError) as error:
        raise StartFileError(f"--start {url}: {error}") from error
    return Starts(file=file, url=url)
