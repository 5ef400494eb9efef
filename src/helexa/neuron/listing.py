"""What a model consists of: asked of its source, or seen in the copy on this machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from helexa.engine.checkpoint.cache import RepoCache, files_in
from helexa.engine.checkpoint.files import CONFIG
from helexa.engine.checkpoint.hub import Listing, ListingFailed, left_alone, list_repo
from helexa.engine.checkpoint.reference import Builtin, HubId
from helexa.engine.checkpoint.resolve import builtin_folder
from helexa.engine.config import ModelConfig
from helexa.engine.quantization_config import refuse_quant
from helexa.errors import CheckpointError, InvalidRequest, PreflightError
from helexa.neuron.ids import ModelId, ModelSpec
from helexa.neuron.preflight import Plan, cold_capabilities, fetch_failed, make_plan
from helexa.neuron.sources import BUILTIN, Source, Sources


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of a model; ``folder`` is where they lie, if they are on this machine."""

    files: tuple[str, ...]
    commit: str | None = None
    folder: Path | None = None

    @property
    def listing(self) -> Listing | None:
        """The same as its hub has it, if that was asked."""
        return None if self.commit is None else Listing(self.commit, self.files)


@dataclass(frozen=True, slots=True)
class Preflight:
    """What was found before a model is loaded: how to, and the files that were listed."""

    plan: Plan
    contents: Contents


def preflight(
    spec: ModelSpec,
    sources: Sources,
    environ: Mapping[str, str],
    *,
    more_quants: Collection[str] = (),
) -> Preflight:
    """Find out whether and how a model can be loaded, with one question to its source.

    Blocks. Raises InvalidRequest for the id, PreflightError or UnsupportedModel for the model.
    """
    id, source = sources.find(spec.model_id)
    contents = list_model(id, source, spec.revision, environ)
    plan = make_plan(
        str(id),
        contents.files,
        quant=spec.quant,
        tp_size=spec.tensor_parallel,
        more_quants=more_quants,
    )
    if spec.quant and contents.folder is not None and plan.picked_quant_file is None:
        refuse_requantising(str(id), contents.folder, spec.quant)
    return Preflight(plan, contents)


def refuse_requantising(model: str, folder: Path, quant: str) -> None:
    """Raise UnsupportedModel where a folder's weights are quantised already.

    A config that cannot be read is for the loader to judge.
    """
    with suppress(CheckpointError):
        refuse_quant(model, ModelConfig.from_file(folder / CONFIG, model).quantization, quant)


def list_model(id: ModelId, source: Source, revision: str, environ: Mapping[str, str]) -> Contents:
    """The files of a model as its source has them, else as they were last fetched.

    Raises PreflightError of kind `repo_fetch_failed`.
    """
    if source.endpoint is None:
        folder = local_folder(id, source)
        try:
            return folder_contents(folder)
        except OSError as error:
            raise fetch_failed(str(id), f"{folder}: {error.strerror or error}") from error
    access = source.access(source.endpoint, environ)
    try:
        if access.offline:
            raise left_alone()
        with access.client() as client:
            listing = list_repo(client, source.endpoint, hub_id(id), revision)
            return Contents(listing.files, listing.commit)
    except ListingFailed as failed:
        contents = snapshot(id, source, revision, environ)
        if contents is None:
            where = f"no copy of it is in {access.root}"
            raise fetch_failed(str(id), f"{failed}; {where}") from failed
        return contents


def snapshot(
    id: ModelId, source: Source, revision: str, environ: Mapping[str, str]
) -> Contents | None:
    """The copy on this machine, None if there is none that can be read."""
    if source.endpoint is None:
        folder: Path | None = local_folder(id, source)
    else:
        cache = RepoCache(source.cache(environ), id.org, id.name)
        try:
            folder = cache.local_snapshot(revision)
        except (CheckpointError, PreflightError):  # unreadable, or a revision that cannot be
            return None
    try:
        return folder_contents(folder) if folder is not None else None
    except OSError:
        return None


def local_folder(id: ModelId, source: Source) -> Path:
    """Where a model of a local source is, whether or not it exists."""
    if source.scheme == BUILTIN:
        return builtin_folder(Builtin(id.repo))
    return (source.path or Path()) / id.org / id.name


def folder_contents(place: Path) -> Contents:
    """The files of a model's folder, or the one file that is the model. Raises OSError."""
    if place.is_file():
        return Contents((place.name,), folder=place.parent)
    next(place.iterdir(), None)  # raises where there is nothing to look at
    return Contents(tuple(files_in(place)), folder=place)


def hub_id(id: ModelId) -> HubId:
    return HubId(id.scheme, id.org, id.name)


def known_capabilities(
    model_id: str, sources: Sources, environ: Mapping[str, str]
) -> list[str] | None:
    """What a model that is not loaded can do, from the disk alone; None if that cannot be said."""
    try:
        id, source = sources.find(model_id)
    except InvalidRequest:
        return None
    contents = snapshot(id, source, "main", environ)
    if contents is None or contents.folder is None:
        return None
    try:
        config: str | None = (contents.folder / "config.json").read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        config = None
    return cold_capabilities(contents.files, config)
