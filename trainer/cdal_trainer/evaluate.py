"""`cdal evaluate` as a function: a model's masks against labelled cases, on the grid of their files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cdal_sdk.bundle import Manifest, SplitRecord, load_checkpoint, name_hash
from cdal_sdk.bundle.manifest import manifest_from_data
from cdal_sdk.engines import Device, Engine, in_parts, pick_device
from cdal_sdk.errors import TrainingError, UsageError
from cdal_sdk.masks import decide
from cdal_sdk.segmenter import Segmenter
from cdal_sdk.slicing import prepare
from cdal_sdk.study import Study
from cdal_trainer.cases import LabelledCase, labelled_cases
from cdal_trainer.evaluation import CaseScore, Evaluation
from cdal_trainer.metrics import score_mask
from cdal_trainer.pictures import Panel
from cdal_trainer.prepared import digest_of, read_image_of, read_label
from cdal_trainer.split import split_folds
from cdal_trainer.trained import trained_network

__all__ = ["Trained", "choose_cases", "evaluate", "load_trained"]

_BASELINE_BATCH = 4
_NO_RECORD = SplitRecord("*", "", 1, 0, 0, (), ())


@dataclass(frozen=True)
class Trained:
    """Something trained that segments: a model of ours, or a baseline's checkpoint.

    Attributes:
        manifest: labels, preprocessing and decision.
        method: "cdal", or the baseline's name.
        engine: runs it.
        votes: instances that are averaged.
        seed: of all noise.
        evaluations: of the network, for one image.
        batch: 2-D images at once.
    """

    manifest: Manifest
    method: str
    engine: Engine
    votes: int
    seed: int
    evaluations: int
    batch: int


def load_trained(
    reference: str | Path,
    *,
    engine: str = "auto",
    device: Device = "auto",
    votes: int | None = None,
    seed: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Trained:
    """Load a bundled name, a model folder, or a checkpoint of any method; for the settings see `Segmenter`.

    Raises:
        ModelError: if it does not exist or is damaged.
    """
    content = load_checkpoint(Path(reference)) if Path(reference).is_file() else {}
    if content.get("method", "cdal") == "cdal":
        segmenter = Segmenter(reference, engine=engine, device=device, votes=votes, seed=seed, progress=progress)
        evaluations = len(segmenter.manifest.betas) * segmenter.votes
        return Trained(
            segmenter.manifest,
            "cdal",
            segmenter.engine,
            segmenter.votes,
            segmenter.seed,
            evaluations,
            segmenter.batch_size,
        )
    return _load_baseline(content, Path(reference), engine, device, votes, seed)


def _load_baseline(
    content: Mapping[str, Any], path: Path, engine: str, device: Device, votes: int | None, seed: int | None
) -> Trained:
    manifest, name = manifest_from_data(content["manifest"], path), content["method"]
    method, network = trained_network(content, path)
    if engine != "auto":
        raise UsageError(f"a baseline runs on no engine '{engine}'", where=path, remedy="leave --engine out")
    if not method.voting and (votes, seed) != (None, None):
        raise UsageError(f"the baseline '{name}' has no votes", where=path, remedy="leave them and --seed out")
    count = (manifest.votes if votes is None else votes) if method.voting else 1
    start = manifest.seed if seed is None else seed
    for what, value, least in (("votes", count, 1), ("seed", start, 0)):
        if value < least:
            raise UsageError(f"{what} is {value}", where=path, remedy=f"give at least {least}")
    runner = method.engine(network, count, start, pick_device(device))
    return Trained(manifest, name, runner, count, start, count * method.evaluations, _BASELINE_BATCH)


def choose_cases(
    data: Path,
    *,
    pattern: str = "*",
    split: str | None = None,
    record: SplitRecord | None = None,
    patient: str | None = None,
) -> tuple[list[LabelledCase], str]:
    """The labelled cases to score, and how they were chosen in words.

    Args:
        data: see `labelled_cases`.
        pattern: shell pattern of the names, of those that the split chooses.
        split: "held-out" for the cases that the model's record holds out; the `split.json` of a run, for its validation
            cases; or "K/N" for those that fold K of N holds out, among the cases and by the patients of the record.
        record: the model's.
        patient: how to find the patient in a name instead of the record's way.

    Raises:
        UsageError: if there are no data, the split is none of these, or it names a case that the data do not hold; if
            the pattern leaves none; or if a patient is given that no fold asks for.
        TrainingError: if the data are unusable, or the files of a case are not those of the run.
    """
    fold, slash, folds = (split or "").partition("/")
    by_fold = bool(slash) and fold.isdecimal() and folds.isdecimal()
    if patient is not None and not by_fold:
        raise UsageError("only a fold asks for the patient in a name", remedy="give the split as K/N, or no patient")
    if split is None:
        cases = labelled_cases(data, pattern)
        return cases, f"all {len(cases)}" if pattern == "*" else f"{len(cases)} named {pattern}"
    cases = labelled_cases(data)
    if split == "held-out":
        chosen, words = _held_out(cases, record, data), "the model's split"
    elif by_fold:
        rule = record or _NO_RECORD
        names = [case.name for case in cases if fnmatchcase(case.name, rule.cases)]
        found = rule.patient if patient is None else patient
        held_out = set(split_folds(names, int(folds), int(fold), found, rule.per_patient)[1])
        chosen, words = [case for case in cases if case.name in held_out], f"fold {fold} of {folds}"
    else:
        chosen, words = _validated(cases, Path(split), data), "the run's split"
    named = [case for case in chosen if fnmatchcase(case.name, pattern)]
    if not named:
        raise UsageError(
            f"none of the {len(chosen)} cases that {words} holds out is named like '{pattern}'",
            where=data,
            remedy="correct the pattern",
        )
    return named, f"{len(named)} held out by {words}" + ("" if pattern == "*" else f" and named {pattern}")


def _held_out(cases: list[LabelledCase], record: SplitRecord | None, data: Path) -> list[LabelledCase]:
    """The cases that a record holds out, every one of them."""
    if record is None:
        raise UsageError("this model carries no record of its split", remedy="give the split.json of its run, or K/N")
    if not record.held_out:
        raise UsageError(
            "this model's record holds out no case that had not trained it or what it started from",
            remedy="give cases that it has not seen, without --split",
        )
    chosen = [case for case in cases if name_hash(case.name) in record.held_out]
    if not chosen or len(chosen) < len(record.held_out):
        raise UsageError(
            f"the data hold {len(chosen)} of the {len(record.held_out)} cases that the model's split holds out",
            where=data,
            remedy="give the data of its training",
        )
    return chosen


def _validated(cases: list[LabelledCase], path: Path, data: Path) -> list[LabelledCase]:
    """The cases that a run validates on, every one of them and with the files of then."""
    try:
        validation = json.loads(path.read_text(encoding="utf-8"))["validation"]
        digests = validation if isinstance(validation, dict) else dict.fromkeys(validation)  # older: no digests
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"'{path}' is no split", remedy="give the split.json of a run, or K/N for fold K of N"
        ) from None
    chosen = [case for case in cases if case.name in digests]
    if missing := sorted(digests.keys() - {case.name for case in chosen}):
        raise UsageError(
            f"the data hold no case '{missing[0]}', which the split names", where=data, remedy="give the run's data"
        )
    for case in chosen:
        if digests[case.name] not in (None, digest_of(case)):
            raise TrainingError(
                f"the files of the case '{case.name}' have changed since the run began",
                where=path,
                remedy="restore them, or give the run's data",
            )
    return chosen


def evaluate(
    trained: Trained,
    cases: Iterable[LabelledCase],
    *,
    chosen: str = "all",
    trained_on: int | None = None,
    patient: Callable[[str], str] = lambda name: name,
    on_case: Callable[[CaseScore], None] = lambda _: None,
) -> Evaluation:
    """Segment labelled cases and score the masks on the grid of their files.

    On pictures the metrics are per image, on volumes per whole volume; both are averaged over cases afterwards.

    Args:
        trained: the model.
        cases: what to score.
        chosen: how they were chosen, in words.
        trained_on: how many of them trained the model, or are of patients that did; None where that is not known.
        patient: whose a case of a name is.
        on_case: called after each.

    Raises:
        TrainingError: naming the file that cannot be used, or if there is nothing to score.
    """
    manifest = trained.manifest
    values = {label.value for label in manifest.labels}
    scored: list[CaseScore] = []
    panels: dict[str, Panel] = {}
    for case in cases:
        study = read_image_of(case, manifest.plan)
        truth = read_label(case, study, values)
        mask = _segment(trained, study)
        spacing = None if study.spacing is None else study.spacing[: 2 if study.planar else 3]
        a, b = (array[..., 0] if study.planar else array for array in (mask, truth))
        scores = {label.name: score_mask(a == label.value, b == label.value, spacing) for label in manifest.labels}
        scored.append(CaseScore(case.name, scores, patient(case.name)))
        title = f"{case.name}  Dice {scored[-1].mean_dice:.3f}"
        panels[case.name] = Panel.of_volume(
            title, np.moveaxis(study.image, -1, 0), np.moveaxis(truth, -1, 0), np.moveaxis(mask, -1, 0)
        )
        on_case(scored[-1])
    if not scored:
        raise TrainingError("there is no case to score", remedy="check the pattern and the split")
    ranked = sorted(scored, key=lambda case: case.mean_dice, reverse=True)
    shown = dict.fromkeys(ranked[place].case for place in (0, len(ranked) // 2, len(ranked) - 1))
    return Evaluation(
        manifest.name,
        trained.method,
        trained.engine.name,
        trained.votes,
        trained.seed,
        trained.evaluations,
        scored,
        chosen,
        trained_on,
        [panels[name] for name in shown],
    )


@torch.inference_mode()
def _segment(trained: Trained, study: Study) -> NDArray[np.uint8]:
    """The mask on the study's grid."""
    manifest = trained.manifest
    prepared = prepare(study, manifest.plan)
    mean = in_parts(trained.engine.run, prepared.images, trained.batch).mean
    return decide(prepared.restore(mean), manifest.labels, manifest.decision, manifest.polarity)
