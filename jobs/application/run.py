"""One run: plan, invert, publish, score, report."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.addresses import ClusterError
from cluster.destination import default_output
from cluster.session import Session
from jobs.application.local_paths import local_paths, seen_by_all
from jobs.application.night.catalogue import Catalogue, columns_digest, follow_manifest, names_of
from jobs.application.night.gate_words import begin_gate, held_since
from jobs.application.night.rates import measured, rate_of
from jobs.application.phases import phase, told_ray_session
from jobs.application.public_files import restore_public_files
from jobs.application.recorded import record_ending, recorded_run, refuse_changed_since, versions
from jobs.application.requests import Listener, NotStartedError, RunRequest, RunResult, TooManyFailuresError
from jobs.application.run_inputs import read_inputs
from jobs.application.run_scores import check_judge, check_metrics, refuse_long_protocol, score_and_report
from pipeline.inputs.manifest import ManifestError
from pipeline.models.families import family_of
from pipeline.models.find import MINI, MINI_SAID, ModelError
from pipeline.protocols.protocol import ProtocolError
from pipeline.records import Concept, Done, Failure
from pipeline.scheduling.planning import Plan, plan
from pipeline.store.catalogue.accepted import accepted_among, is_gated
from pipeline.store.catalogue.retired import retired_words
from pipeline.store.events import EventLog
from pipeline.store.parts import all_whole, create_layout
from pipeline.store.publish import publish, publish_failures
from pipeline.store.run_folder import RunFolder, doubt_of_exactly_once, short
from pipeline.store.storage import Storage, StorageError, without_credentials
from pipeline.text_files import paragraph
from pipeline.training.start_file import StartFileError

if TYPE_CHECKING:
    from eval.judges.nearest_words import NearestWords
    from eval.scores.score_run import Judgement
    from jobs.application.progress import ProgressDisplay
    from pipeline.scheduling.driver import Progress
    from pipeline.scheduling.worker_process import WorkerProcess

_log = logging.getLogger(__name__)


def invert(
    request: RunRequest, events: Listener | None = None, worker: "type[WorkerProcess] | None" = None
) -> RunResult:
    """Learns a word for every concept of the manifest, scores the words and reports them; resumes an interrupted run.

    worker: the actor class; None uses WorkerProcess.
    Raises NotStartedError before anything is started. An interruption is raised after the concepts in training have been
    checkpointed: TooManyFailuresError, StorageError of the run folder, KeyboardInterrupt. A concept that fails raises
    nothing; it is in the result's failures.
    """
    events = events or Listener()
    try:
        run = Run(request, events, worker)
    except (ManifestError, ModelError, StorageError, ValueError) as error:
        raise NotStartedError(str(error)) from error
    url, shown = without_credentials(run.folder.storage.url), without_credentials(request.manifest)
    model, concepts = run.model, len(run.manifest.concepts)
    events.say("manifest", f"manifest  {shown}: {concepts} concepts", url=shown)
    events.say("model", f"model     {model.name} ({model.family}, weights {model.digest[:12]})", digest=model.digest)
    if model.name == MINI:
        events.say("shipped model", f"          {MINI_SAID}")
    events.say("output", f"output    {url}", url=url)
    if said := run.starts.said(run.manifest.concepts):
        events.say("start", said)
    try:
        with run.log.listening():
            return run.to_the_end()
    except ClusterError as error:
        raise NotStartedError(str(error)) from error


class Run:
    """done: concept -> fingerprint. failures: concept -> why it has no word."""

    def __init__(self, request: RunRequest, events: Listener, worker: "type[WorkerProcess] | None" = None) -> None:
        """Raises ManifestError, ModelError, StorageError and ValueError."""
        self.request, self.events, self.worker = request, events, worker
        inputs = read_inputs(request, events)
        self.manifest, self.protocol, self.model = inputs.manifest, inputs.protocol, inputs.model
        self.settings, self.starts, self.metrics = inputs.settings, inputs.starts, inputs.metrics
        self.folder = RunFolder(Storage(request.output or default_output(request.manifest), request.storage_options))
        refuse_changed_since(self.folder, self.model)
        if said := doubt_of_exactly_once(self.folder.storage):
            _log.warning("%s", said)
        self.began = time.monotonic()
        self.reached: dict[str, float] = {}  # milestone of the run -> seconds since it started
        self.log = EventLog(self.folder)
        self.done: dict[str, str] = {}
        self.failures = {failure.concept: failure for failure in self.manifest.failures}
        self.shared_paths: tuple[str, ...] = ()
        self.gate = request.gate if request.gate.asked or is_gated(self.folder) else None
        if self.gate is not None and request.words_of_each > 1:
            raise ValueError("--repeats and --choose: this run folder has a gate; give another --output")
        self.rate, self.workers = rate_of(recorded_run(self.folder), self.settings), 1
        self.catalogue, self.today = Catalogue(), datetime.now(UTC).date()

    def to_the_end(self) -> RunResult:
        total = len(names_of(self.manifest))
        parts = create_layout(self.folder, total)
        with phase(self.events, "reading the pictures") as counts:
            planned = plan(
                self.manifest.concepts, self.folder, self.model, self.request.model_settings.label,
                self.settings,
                dict(self.folder.storage.options), retry_failed=self.request.retry_failed,
                retired={(word.concept, word.short) for word in retired_words(self.folder)},
                step=counts.of("looked at the pictures of", "concepts"),
            )  # fmt: skip
        self._reach("planned")
        self.done |= planned.done
        self.failures |= {failure.concept: failure for failure in planned.failed}
        said = f"to do     {len(planned.left)} of {total} concepts; {len(self.done)} are done, {len(self.failures)} failed before"
        self.events.say("plan", said, left=len(planned.left), done=len(self.done), failed=len(self.failures))
        family = family_of(self.model.family)
        self.catalogue = follow_manifest(
            self.folder, self.manifest, planned, parts, self.today, self.events,
            only_this_manifest=self.request.only_this_manifest, retired_days=self.request.retired_days, family=family,
        )  # fmt: skip
        if self.gate is not None:
            begin_gate(self.folder)
        there = {name: fingerprint for name, fingerprint in self.done.items() if name not in self.catalogue.returned}
        if self.gate is not None:
            there = accepted_among(self.folder, there)
        with phase(self.events, "looking for missing files"):
            restored = restore_public_files(self.folder, there, parts, family)
        if restored:
            more = f" and {len(restored) - 1} more files that were missing" if restored[1:] else ", which was missing"
            self.events.say("restored", f"restored  {restored[0]}{more}", count=len(restored))
        moved = self.catalogue.gone or self.catalogue.returned
        if not planned.left and not moved and self._is_reported() and all_whole(self.folder):
            self._write_progress()
            return self._end("nothing to do")
        check_judge(self.request.clip, self.request.model, self.protocol, self.manifest.concepts)
        with (
            told_ray_session(self.request.placement.ray_address, self.events) as session,
            seen_by_all(
                session, self.folder.storage, local_paths(self.model.name, self.request.clip),
                shared_filesystem=self.request.placement.shared_filesystem,
            ) as self.shared_paths,
        ):  # fmt: skip
            self._reach("ray")
            check_metrics(self.metrics)
            if not planned.left:
                refuse_long_protocol(self.folder, self._judgement(session), self.request.protocol)
            try:
                self.starts.check_clip(self.request.clip)
            except StartFileError as error:
                raise NotStartedError(str(error)) from error
            self._write_run_json(session, None, finished=False)
            try:
                self._learn_and_score(planned, session, parts)
            except BaseException as error:
                record_ending(self.folder, error, self._counts())
                raise
        return self._end(f"finished in {time.monotonic() - self.began:.0f} s")

    def _learn_and_score(self, planned: Plan, session: Session, parts: Mapping[str, int]) -> None:
        digests = self._invert(planned.left, session) if planned.left else None
        self._reach("last_word")
        concepts = {concept.name: concept for concept in self.manifest.concepts}
        with phase(self.events, "publishing") as counts:
            published = counts.of("published", "words")
            publish(self.folder, self.done, parts, concepts, gated=self.gate is not None, step=published)
        committed = self.folder.committed()
        for name in [name for name, fingerprint in self.done.items() if (name, short(fingerprint)) not in committed]:
            reason = "its files are not in the run folder; the same command learns it again"
            self.failures[name] = Failure(name, "worker", reason, fingerprint=self.done.pop(name))
        publish_failures(self.folder, self.failures.values())
        self._write_run_json(session, digests, finished=False)
        self._reach("published")
        self.log.flush()
        score_and_report(self.folder, self._judgement(session), self.events, self.gate, choose=self.request.choose > 1)
        self._reach("reported")
        if learned := len(planned.left) and len(self.done) - len(planned.done):
            self.rate = measured(self.reached, self.workers, learned)
        self._write_run_json(session, digests, finished=True)
        self._write_progress()

    def _invert(self, left: tuple[Concept, ...], session: Session) -> tuple[str, str] | None:
        # Ray takes a second to import, which a run with nothing to do saves.
        from jobs.application.progress import ProgressDisplay
        from pipeline.scheduling.deadlines import Deadlines
        from pipeline.scheduling.driver import Driver, Resources, WorkersNeverStartedError
        from pipeline.scheduling.prometheus import RunMetrics
        from pipeline.scheduling.worker_interface import WorkerSettings
        from pipeline.scheduling.worker_process import WorkerProcess

        request, placement, limits = self.request, self.request.placement, self.request.limits
        gpus = placement.gpus_per_worker if placement.gpus_per_worker is not None else float(session.gpus > 0)
        fit = int(session.gpus // gpus if gpus else session.cpus // placement.cpus_per_worker)
        resources = Resources(placement.workers or max(1, fit), placement.cpus_per_worker, gpus)
        settings = WorkerSettings(
            model=self.model.name, model_digest=self.model.digest, config_digest=self.model.config_digest,
            device="cuda" if gpus else "cpu",
            threads=max(1, int(placement.cpus_per_worker)), slots=placement.slots, inversion=self.settings,
            protocol=self.protocol, run=self.folder, storage_options=dict(self.folder.storage.options),
            longest=self._longest(left), concepts=math.ceil(len(left) / resources.workers),
            checkpoint_seconds=limits.checkpoint_seconds, look=self._look("cuda" if gpus else "cpu"),
            start_encoder=self.starts.encoder, start_file=self.starts.file,
            see=self.starts.features(request.clip, "cuda" if gpus else "cpu"),
            model_settings=request.model_settings, checkpoint_gradients=placement.checkpoint_gradients, compile=placement.compile,
            shared_paths=self.shared_paths, gated=self.gate is not None,
        )  # fmt: skip
        self.events.say(
            "workers", f"workers   up to {resources.workers} on {settings.device}", workers=resources.workers
        )
        self.workers, counts = resources.workers, self._counts()
        before, metrics = (counts["done"], counts["failed"]), RunMetrics()
        display = ProgressDisplay(self.folder, self.events, before, counts["retired"])
        deadlines = Deadlines(
            placing=limits.placing_seconds, stall=limits.stall_seconds, concept=limits.concept_seconds
        )

        def report(progress: "Progress") -> None:
            if progress.workers.get("ready"):
                self._reach("training")
            display(progress)
            metrics(progress)
            self.log.flush(at_once=False)

        self.log.listeners.append(metrics.count)
        driver = Driver(
            settings, resources, self._record, report, deadlines, self.worker or WorkerProcess, self.log.record
        )
        try:
            digests = driver.run(iter(left), len(left))
        except WorkersNeverStartedError as error:
            raise NotStartedError(f"no worker could load {self.model.name!r}: {error}") from error
        except ProtocolError as error:
            raise NotStartedError(str(error)) from error
        except BaseException:
            self._leave(display, driver.progress())
            raise
        finally:
            self.log.flush()
        display.write("scoring", driver.progress())
        if digests is not None and digests[0] != digests[1]:
            raise RuntimeError(
                f"the frozen weights changed during the run, from {digests[0]} to {digests[1]}: its words cannot be trusted"
            )
        return digests

    def _longest(self, left: Sequence[Concept]) -> tuple[Concept, ...]:
        """Of each set of prompts. With --skip-invalid a word that is too long is a failure of its own."""
        by_prompts: dict[tuple[str, tuple[str, ...]], Concept] = {}
        for concept in left:
            some = replace(concept, vectors=1) if self.request.skip_invalid else concept
            prompts = self.protocol.templates_of(some)
            by_prompts[prompts] = max(
                by_prompts.get(prompts, some), some, key=lambda each: (each.vectors, len(each.noun or ""))
            )
        return tuple(by_prompts.values())

    def _look(self, device: str) -> "NearestWords | None":
        if self.settings.start != "nearest":
            return None
        from eval.judges.nearest_words import NearestWords

        return NearestWords(self.settings.start_clip, device)

    def _leave(self, display: "ProgressDisplay", progress: "Progress") -> None:
        """Writes the progress and failures of an interrupted run."""
        display.write("cut short", progress)
        if self.failures:
            publish_failures(self.folder, self.failures.values())

    def _reach(self, point: str) -> None:
        self.reached.setdefault(point, round(time.monotonic() - self.began, 1))

    def _record(self, concept: Concept, result: Done | Failure) -> None:
        if isinstance(result, Done):
            self._reach("first_word")
            self.done[concept.name] = result.fingerprint
            if self.request.retry_failed:
                self.folder.forget_failure(concept.name, result.fingerprint)
            return
        self.failures[concept.name] = result
        self.folder.record_failure(result)
        most = self.request.limits.max_failures
        if most is not None and len(self.failures) > most:
            raise TooManyFailuresError(
                f"{len(self.failures)} concepts failed, more than --max-failures {most}; the last one:\n"
                f"  {result.concept}: {result.reason}\nAll are in {without_credentials(self.folder.storage.url)}/failures/."
            )

    def _judgement(self, session: Session) -> "Judgement":
        from eval.scores.drawn_pictures import RunModel
        from eval.scores.score_run import Judgement

        # Under a protocol other than the one a finished run was drawn with, words are drawn again, not learned again.
        drawing = RunModel(
            self.model.name,
            session.device,
            self.request.model_settings,
            self.settings.seed,
            self.settings.resolution,
            self.folder.storage.options,
        )
        return Judgement(
            self.protocol, self.model.name, self.model.digest, self.request.clip, session.device, drawing, self.metrics,
            self.request.keep_features,
        )  # fmt: skip

    def _write_run_json(self, session: Session, digests: tuple[str, str] | None, *, finished: bool) -> None:
        self.folder.write_json("run.json", {
            "manifest": self.manifest.url, "manifest_digest": self.manifest.digest,
            "model": self.model.name, "model_family": self.model.family, "model_digest": self.model.digest,
            "model_config_digest": self.model.config_digest, "model_revision": self.model.revision,
            "frozen_weights": None if digests is None else {"before": digests[0], "after": digests[1]},
            "clip": self.request.clip, "protocol": self.protocol.label, "protocol_settings": self.protocol.as_dict(),
            "metrics": self._metrics(), "kept_features": self.request.keep_features,
            "chosen": self.request.choose > 1,
            "settings": self.settings.as_dict(),
            "model_settings": asdict(self.request.model_settings),
            "slots": self.request.placement.slots or "measured",
            "cluster": {"cpus": session.cpus, "gpus": session.gpus, "nodes": session.nodes},
            "counts": self._counts(), "fingerprint_of_all": self._fingerprint_of_all(),
            "columns_of_all": columns_digest(self.manifest, self.catalogue.others), "events": dict(self.log.counts),
            "measured": asdict(self.rate) if self.rate.measured else None,
            "seconds_until": self.reached, "seconds_of_a_workers_start": self.log.phases,
            "seconds": round(time.monotonic() - self.began, 1), "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "finished": finished, "versions": versions(),
        })  # fmt: skip

    def _is_reported(self) -> bool:
        """Whether the last run of this folder finished with exactly these words, this CLIP and this protocol in its report."""
        last = recorded_run(self.folder)
        wanted = {
            "finished": True,
            "clip": self.request.clip,
            "protocol": self.protocol.label,
            "fingerprint_of_all": self._fingerprint_of_all(),
        }
        columns = columns_digest(self.manifest, self.catalogue.others)
        # An older run.json does not say; its tables then are as they are until there is something else to do.
        same = last.get("columns_of_all", columns) == columns and last.get("metrics", {}) == self._metrics()
        same = same and (last.get("kept_features", False) or not self.request.keep_features)
        same = same and last.get("chosen", False) == (self.request.choose > 1)
        return same and all(last.get(key) == value for key, value in wanted.items())

    def _metrics(self) -> dict[str, str]:
        return {metric.spelled: metric.digest for metric in self.metrics}

    def _counts(self) -> dict[str, int]:
        """Of the whole run folder: also of words that only other manifests list."""
        others = len(self.catalogue.others)
        return {
            "total": len(names_of(self.manifest)) + others, "done": len(self.done) + others, "failed": len(self.failures),
            "retired": len(self.catalogue.retired),
        }  # fmt: skip

    def _write_progress(self) -> None:
        """progress.json at the end; the rate stays that of the last words that were learned."""
        try:
            last = self.folder.read_json("progress.json")
        except StorageError:
            last = {}
        done = {"state": "finished", **self._counts(), "running": 0, "eta_seconds": 0, "why": "", "then": ""}
        self.folder.write_json(
            "progress.json", last | done | {"updated": datetime.now(UTC).isoformat(timespec="seconds")}
        )

    def _fingerprint_of_all(self) -> str:
        failed = {failure.concept: failure.fingerprint for failure in self.failures.values()}
        return hashlib.sha256(json.dumps([self.done, failed], sort_keys=True).encode()).hexdigest()

    def _end(self, said: str) -> RunResult:
        counts = self._counts()
        said = f"{said}: {counts['done']} concepts done, {counts['failed']} failed"
        lines = [said + (f", {counts['retired']} retired" if counts["retired"] else "")]
        lines += [f"  {name}: {failure.reason}" for name, failure in sorted(self.failures.items())[:20]]
        if len(self.failures) > 20:
            lines.append(f"  and {len(self.failures) - 20} more, in {self.folder.storage.url}/failures/")
        if self.log.counts:
            what = ", ".join(f"{count} x {kind.replace('_', ' ')}" for kind, count in self.log.counts.most_common())
            lines.append(f"  on the way: {what}; each is in the report, and a row of events/")
        url = without_credentials(self.folder.storage.url)
        held = held_since(self.folder, self.today) if self.gate else {}
        result = RunResult(url, dict(self.done), dict(self.failures), time.monotonic() - self.began,
                           self.request.accepted_failures, self.catalogue.retired, held)  # fmt: skip
        if self.failures and not result.unaccepted:
            lines.append("  these failures are accepted")
        self.events.say(
            "end", paragraph(lines), done=counts["done"], failed=counts["failed"], retired=counts["retired"]
        )
        # A terminal makes a link of a file:// URL.
        shown = Path(result.report).absolute().as_uri() if self.folder.storage.is_local else result.report
        self.events.say("report", f"report    {shown}", url=result.report)
        return result
