"""The driver's loop on a real local Ray, with workers that crash, hang and break off as their concepts' names say."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from pipeline.records import Failure
from pipeline.scheduling.deadlines import Deadlines
from pipeline.scheduling.driver import Progress, WorkersNeverStartedError
from pipeline.scheduling.lost_workers import LIVES
from pipeline.store.events import read_events
from tests.scripted_run import ScriptedRun, quick
from tests.scripted_worker import (
    OneLoadsForEver,
    ScriptedWorker,
    WorkersOfOneAndFourSlots,
    WorkerThatDiesLoading,
    WorkerThatLoadsForEver,
    WorkerThatTellsSlowly,
    WorkerWithoutModel,
)

ROOT = Path(__file__).parents[3]
SOON = Deadlines(loading=3, stall=3)


@pytest.fixture(scope="module", autouse=True)
def local_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(address="local", num_cpus=4, include_dashboard=False, configure_logging=False, log_to_driver=False,
                 runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}})  # fmt: skip
        yield
        ray.shutdown()


def test_every_concept_is_called_once_and_the_weights_are_asked_for(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, quick(20))
    assert run.go() == ("same", "same")
    assert set(run.results) == set(run.names)
    assert run.calls == Counter(run.names)
    last = run.seen[-1]
    assert (last.done, last.failed, last.running, last.restarts) == (20, 0, 0, 0)


def test_the_weights_are_asked_for_although_another_worker_is_still_loading(tmp_path: Path) -> None:
    """Catches the only worker that could tell of the weights being let go, because it is the one with nothing to do."""
    run = ScriptedRun(tmp_path, ["quick-1", "quick-2"], OneLoadsForEver)
    assert run.go() == ("same", "same")


def test_there_are_never_more_workers_than_concepts(tmp_path: Path) -> None:
    """Catches a cluster that is asked for fifty machines to do three concepts."""
    run = ScriptedRun(tmp_path, ["long-1"])
    run.go(workers=4)
    assert max(sum(progress.workers.values()) for progress in run.seen) == 1


def test_a_worker_for_which_nothing_is_left_is_let_go_while_the_last_concept_goes_on(tmp_path: Path) -> None:
    """Catches forty-nine GPUs that are paid for until the slowest word of the night is learned."""
    run = ScriptedRun(tmp_path, ["held-1", *quick(6)])
    most = 0

    def release_once_alone(progress: Progress) -> None:
        nonlocal most
        workers = sum(progress.workers.values())
        most = max(most, workers)
        if most == 2 and (workers, progress.running) == (1, 1):
            (tmp_path / "release").touch()

    run.report = release_once_alone
    run.go(workers=2, deadlines=Deadlines(concept=60))
    assert run.failures == {}
    assert set(run.calls.values()) == {1}, "a worker that is busy must not be the one that goes"


def test_a_worker_has_a_concept_ahead_of_its_slots(tmp_path: Path) -> None:
    """Catches a slot that stands idle while the next concept's images are on their way."""
    run = ScriptedRun(tmp_path, ["long-1", "long-2", "long-3", "long-4"])
    run.go(workers=1, slots=1)
    assert max(progress.running for progress in run.seen) == 2


def test_words_that_are_being_drawn_take_no_call_from_those_that_need_a_slot(tmp_path: Path) -> None:
    """Catches slots that stand idle because all calls are at words which are drawn or committed; and calls without end."""
    run = ScriptedRun(tmp_path, ["drawn-1", "drawn-2", "long-1", "long-2", "drawn-3", "drawn-4", "long-3"])

    def release_once_the_slots_are_served(progress: Progress) -> None:
        run.seen.append(progress)
        if {"long-1", "long-2"} <= run.results.keys():
            (tmp_path / "release").touch()

    run.report = release_once_the_slots_are_served
    run.go(workers=1, slots=1, deadlines=Deadlines(concept=60))
    assert run.failures == {}
    assert max(progress.running for progress in run.seen) <= 3


def test_the_last_concepts_are_shared_out_evenly(tmp_path: Path) -> None:
    """Catches a worker that holds five words to be drawn while another has nothing left to do."""
    run = ScriptedRun(tmp_path, [f"drawn-{number}" for number in range(6)], WorkersOfOneAndFourSlots)

    def release_once_all_are_drawn(progress: Progress) -> None:
        if progress.running == 6:
            (tmp_path / "release").touch()

    run.report = release_once_all_are_drawn
    run.go(workers=2, deadlines=Deadlines(concept=60))
    assert run.failures == {}
    assert sorted(run.calls_by_process.values()) == [3, 3]


def test_bad_input_costs_one_call_and_is_not_tried_again(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, ["bad-1", *quick(5)])
    run.go()
    assert run.failures == {"bad-1": Failure("bad-1", "images", "no readable image", fingerprint="f" * 64)}
    assert run.calls["bad-1"] == 1


def test_a_poison_concept_is_given_up_and_its_neighbours_are_unharmed(tmp_path: Path) -> None:
    """Catches a concept that kills worker after worker for ever, and good ones that are given up together with it."""
    run = ScriptedRun(tmp_path, ["long-1", "long-2", "poison-1", *quick(8), "long-3"])
    run.go()
    assert list(run.failures) == ["poison-1"]
    failure = run.failures["poison-1"]
    assert (failure.stage, failure.attempts) == ("worker", LIVES)
    assert f"broke off {LIVES} times" in failure.reason
    assert run.calls["poison-1"] == LIVES
    assert max(count for name, count in run.calls.items() if name != "poison-1") <= 2, (
        "tried alone after the first time"
    )


def test_a_lost_worker_is_told_with_its_last_lines_and_what_is_done(tmp_path: Path) -> None:
    """Catches an operator who reads "restarts 7", and no cause."""
    run = ScriptedRun(tmp_path, ["gasping-1", *quick(2)])
    run.go(workers=1)
    assert run.failures == {}
    run.log.flush()
    told = read_events(run.folder)
    (lost,) = [event for event in told if event.kind == "worker_lost"]
    assert "the GPU fell off the bus" in lost.output
    assert lost.worker
    assert lost.node
    assert "tried again" in lost.action
    broken = [event for event in told if event.kind == "call_broken_off"]
    assert [event.concept for event in broken] == ["gasping-1"]
    assert broken[0].action == "it is tried again alone"
    assert (broken[0].worker, broken[0].node) == (lost.worker, lost.node)
    assert run.log.counts == {"worker_lost": 1, "call_broken_off": 1}


def test_what_a_pulse_in_flight_at_the_end_tells_is_heard(tmp_path: Path) -> None:
    """Catches events that a slow pulse had already taken with it when the last concept was done."""
    run = ScriptedRun(tmp_path, ["long-1"])
    run.worker = WorkerThatTellsSlowly
    run.go(workers=1)
    run.log.flush()
    told = [(event.kind, event.cause) for event in read_events(run.folder) if event.kind != "phase"]
    assert told == [("picture_rejected", "told once")]


def test_a_poison_concept_is_told_with_each_try_and_its_end(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, ["poison-1"])
    run.go(workers=1)
    run.log.flush()
    actions = [event.action for event in read_events(run.folder) if event.kind == "call_broken_off"]
    assert actions == ["it is tried again alone"] * (LIVES - 1) + ["it is recorded as a failure"]


@pytest.mark.long
def test_several_poisons_beside_each_other_are_each_found(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, ["poison-1", "poison-2", "poison-3", *quick(4)])
    run.go(workers=1, slots=4)
    assert set(run.failures) == {"poison-1", "poison-2", "poison-3"}


@pytest.mark.long
def test_a_concept_that_got_further_before_each_crash_is_never_given_up(tmp_path: Path) -> None:
    """Catches a long training on bad machines that is thrown away although it was nearly done."""
    run = ScriptedRun(tmp_path, ["advancing-1", *quick(3)])
    run.go(workers=1)
    assert run.failures == {}
    assert run.calls["advancing-1"] == 5


def test_a_call_that_breaks_off_is_tried_again_on_the_worker_that_lives(tmp_path: Path) -> None:
    """Catches a model loaded anew because a store was out of reach for one concept."""
    run = ScriptedRun(tmp_path, ["broken-1", *quick(3)])
    run.go(workers=1)
    assert "the store was out of reach" in run.failures["broken-1"].reason
    assert (run.calls["broken-1"], run.processes) == (LIVES, 1)


@pytest.mark.long
@pytest.mark.parametrize("how", ["endless", "deaf"])
def test_a_worker_that_hangs_is_replaced_and_the_others_finish(how: str, tmp_path: Path) -> None:
    """Catches a run that stands still on Saturday because of one GPU."""
    run = ScriptedRun(tmp_path, [f"{how}-1", *quick(6)])
    run.go(deadlines=SOON)
    assert list(run.failures) == [f"{how}-1"]
    assert "for 3 s" in run.failures[f"{how}-1"].reason


@pytest.mark.long
def test_a_concept_that_takes_longer_than_it_may_is_given_up(tmp_path: Path) -> None:
    run = ScriptedRun(tmp_path, ["endless-1", "quick-1"])
    run.go(deadlines=Deadlines(concept=3))
    assert "not done within the 3 s that a concept may take" in run.failures["endless-1"].reason


@pytest.mark.long
@pytest.mark.parametrize(
    ("worker", "said"),
    [
        (WorkerWithoutModel, "there is no model.safetensors"),
        (WorkerThatDiesLoading, "died"),
        (WorkerThatLoadsForEver, "the model was not loaded within 3 s"),
    ],
)
def test_workers_that_cannot_load_the_model_end_the_run_with_the_reason(
    worker: type[ScriptedWorker], said: str, tmp_path: Path
) -> None:
    """Catches a typing error in --model that buys machines all weekend."""
    with pytest.raises(WorkersNeverStartedError, match=f"(?s){said}"):
        ScriptedRun(tmp_path, quick(5), worker).go(workers=1, deadlines=SOON)


def test_workers_for_which_no_node_has_room_end_the_run_with_the_reason(tmp_path: Path) -> None:
    """Catches a job that waits for ever for GPUs which its cluster does not have."""
    with pytest.raises(WorkersNeverStartedError, match="no node had room for a worker within 2 s"):
        ScriptedRun(tmp_path, quick(5)).go(gpus=1, deadlines=Deadlines(placing=2))


def test_an_interrupted_run_checkpoints_what_is_in_training(tmp_path: Path) -> None:
    """Catches a Ctrl-C that throws the steps since the last checkpoint away."""
    run = ScriptedRun(tmp_path, ["endless-1", "quick-1"])

    def interrupt_once_in_training(progress: Progress) -> None:
        if progress.doing.get("training") and progress.done:
            raise KeyboardInterrupt  # no signal: a test in the background is deaf to that one

    run.report = interrupt_once_in_training
    with pytest.raises(KeyboardInterrupt):
        run.go()
    checkpoint = run.folder.checkpoint("endless-1")
    assert checkpoint is not None
    assert checkpoint.step == 1


def imported(modules: str, libraries: set[str]) -> set[str]:
    """Which of the libraries a process has that imports the modules."""
    program = f"import sys, {modules}; print(*sorted({libraries!r} & sys.modules.keys()))"
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(said.stdout.split())


def test_what_schedules_needs_no_torch() -> None:
    """Catches a driver that takes seconds and a gigabyte for a library that only its workers use."""
    modules = (
        "jobs.invert_all, jobs.api, jobs.application.run, jobs.application.progress, pipeline.scheduling.driver, "
        "pipeline.scheduling.prometheus"
    )
    assert imported(modules, {"torch", "diffusers", "open_clip"}) == set()


def test_what_has_words_scored_imports_no_judge() -> None:
    """Catches a driver that waits for libraries of judges, which it leaves to others to load."""
    assert imported("eval.scores.score_run", {"diffusers", "open_clip", "timm", "transformers"}) == set()
    assert imported("eval.judges.clip", {"open_clip"}) == {"open_clip"}
