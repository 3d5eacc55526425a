"""``recount test-prompts``: does a trained text-guided run read its prompt, and where do its maps lie?

A run is tested on every benchmark that its experiment names (``prompt_tests``). The weights are those selected on
held-out samples, or the last ones: never those chosen on test data. Beside the scores lie maps of a few pictures, each
asked for its majority and for its minority: the same ones for every system, at fixed quantiles of the minority's count.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recount import provenance
from recount.chain import Chain
from recount.data.index import read_index
from recount.data.needs import with_pictures
from recount.data.sample import Sample
from recount.devices import device_for
from recount.errors import UserError
from recount.jobs import attempt, digests
from recount.nn.precision import usable_precision
from recount.prediction import prompt_tests
from recount.prediction.counterfactuals import askable, counterfactuals
from recount.prediction.localisation import ATTENTION, in_cells, localisation, over_picture
from recount.prediction.predict import MAP_CELLS, load_run, load_selection, picture_of, shrunk
from recount.prediction.prompt_tests import SEVERAL_CLASSES, as_prompted, majority_of, remembering, spread, usable
from recount.prediction.samples import Asking
from recount.results.files import Made, file_digest, write_arrays
from recount.results.prompt_tests import BenchmarkTests, Maps, NotTested, PromptTests
from recount.results.run_record import RUN
from recount.settings.project import Project, PromptTest, Run

log = logging.getLogger(__name__)

ELSEWHERE: dict[str, Callable[..., Any]] = {"maps": localisation, "counterfactuals": counterfactuals}
SELECTIONS = ("best_on_held_out", "last")
SHOWN = (0.0, 1 / 3, 2 / 3, 1.0)  # quantiles of the minority's count: the pictures whose maps are kept
PROMPTS = ("majority", "minority")


def run_prompt_tests(project: Project, run: Run, benchmark: str) -> Path:
    """Test a finished run of the project on a benchmark as its experiment says; return the path of the JSON file."""
    entry = run.prompt_tests.get(benchmark)
    if entry is None:
        known = ", ".join(run.prompt_tests) or "nothing"
        raise UserError(f"{run.id}: suite {run.suite} has no prompt_tests on {benchmark}; it has them on: {known}")
    settings, code = provenance.reading_of(project, run), provenance.step_digest("test_prompts", run.system)
    index, folder = project.root / project.index(entry.split), project.root / project.run_folder(run)
    made_from = {"settings": settings, "code": code, "tests": entry.model_dump(), **digests(index, folder / RUN)}
    with attempt(project, "test-prompts", f"{run.evaluation_id}/{benchmark}", made_from):
        torch.set_num_threads(project.config.threads)
        Chain(project).run(run)  # else it is not to be read
        data = provenance.data_digests([index])
        record, system = load_run(folder, run.reading)
        name = next(name for name in SELECTIONS if name in record.selections)
        load_selection(system, folder, name, record.selections[name])
        samples = with_pictures(read_index(index, entry.split.split), f"{run.id} on {benchmark}")
        output = project.root / project.prompt_test_file(run, benchmark)
        with device_for(project.config.device, project.config.jobs_per_gpu, project.config.determinism) as device:
            precision = usable_precision(project.config.evaluation_precision or record.precision_of_evaluation, device)
            torch.manual_seed(run.seed)
            asking = Asking(system, picture_of, device, precision)
            maps: dict[str, np.ndarray] = {}
            scores = _tested(asking, entry, samples, f"{entry.split.dataset}/{entry.split.split}", maps)
            # last: the trained weights are gone after it
            if "maps" in entry.tests and run.checkpoint is None and system.restore_base_weights():
                scores.maps_before_training = _attention_of_base(asking, entry, samples)
        kept = output.with_suffix(".npz")
        write_arrays(kept, maps)
        made = Made(
            content={kept.relative_to(project.root / project.results).as_posix(): file_digest(kept)},
            run=record.id,
            models={name: record.selections[name].sha256},
            data=data,
            settings=settings,
            code=code,
        )
        PromptTests(made=made, selection=name, benchmarks={benchmark: scores}).write(output)
    return output


def _tested(
    asking: Asking, entry: PromptTest, samples: Sequence[Sample], place: str, maps: dict[str, np.ndarray]
) -> BenchmarkTests:
    """Return the scores of one benchmark's tests; a test that the benchmark cannot bear says why. Fills ``maps``."""
    found = BenchmarkTests(dataset=entry.split.dataset, split=entry.split.split)
    for test in entry.tests:
        if test == "counterfactuals":
            chosen = askable(asking.system, samples)  # of all pictures: five predictions each
        else:
            chosen = chosen_samples(test, samples, entry.pictures)
        if isinstance(chosen, str):
            log.warning("%s on %s: not tested: %s", test, place, chosen)
            setattr(found, test, NotTested(not_tested=chosen))
            continue
        run = ELSEWHERE.get(test) or getattr(prompt_tests, test)
        more = {"without": SEVERAL_CLASSES} if test in ("negative_prompts", "mosaics") and entry.without_listed else {}
        setattr(found, test, run(asking, chosen, **more))
        if test == "pairs":
            maps |= {f"{place}/{key}": value for key, value in figure_maps(asking, chosen).items()}
    return found


def chosen_samples(test: str, samples: Sequence[Sample], pictures: int | None) -> list[Sample] | str:
    """Return at most so many ``pictures`` of a benchmark that a test is run on, or why it cannot be."""
    if test == "maps":
        fitting = [sample for sample in samples if len(sample.points)]
        return spread(fitting, pictures) or "the data set has counts only, so where maps should lie is not known"
    if test == "pairs":
        fitting = [sample for sample in samples if sample.count > 0 and majority_of(sample) != sample.prompt]
        return spread(fitting, pictures) or "no picture is known to show more of another class than of the prompt's"
    # once more after thinning out: among fewer pictures fewer classes are asked for
    return usable(spread(usable(samples), pictures)) or "no picture lacks a class that another one asks for"


def figure_maps(asking: Asking, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """Return maps of a few pictures for figures, float16 [h, w], by ``<id>/<majority or minority>/<map>``.

    "density" is objects per cell, so that its sum is the count; the others are as ``System.predict`` gives them. No map
    has more than ``MAP_CELLS`` cells along a side.
    """
    ordered = sorted(samples, key=lambda sample: (sample.count, sample.id))
    chosen = [ordered[place] for place in dict.fromkeys(round(q * (len(ordered) - 1)) for q in SHOWN)]
    asked = [as_prompted(sample, prompt) for sample in chosen for prompt in (majority_of(sample), sample.prompt)]
    results = asking.predict(asked, remembering(asking.load_image), keep_density=True, keep_maps=True)
    kept: dict[str, np.ndarray] = {}
    for number, result in enumerate(results):
        small = {} if result.density is None else {"density": shrunk(result.density)[0]}
        for name, values in result.maps.items():
            whole = over_picture(values, result.sample)
            small[name] = in_cells(whole, -(-max(whole.shape[-2:]) // MAP_CELLS))
        stem = f"{result.sample.id}/{PROMPTS[number % 2]}"
        kept |= {f"{stem}/{name}": values.numpy().astype(np.float16) for name, values in small.items()}
    return kept


def _attention_of_base(asking: Asking, entry: PromptTest, samples: Sequence[Sample]) -> Maps | NotTested:
    """Return where the attention of the pretrained network lies; its decoder is another's, so nothing else counts."""
    chosen = chosen_samples("maps", samples, entry.pictures)
    if isinstance(chosen, str):
        return NotTested(not_tested=chosen)
    scores = localisation(asking, chosen)
    for row in (scores, *scores.pictures):
        row.auc = {name: value for name, value in row.auc.items() if name.startswith(ATTENTION)}
    return scores
