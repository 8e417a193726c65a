"""One run of invert_all.py: plan, invert, publish, score, report."""

import argparse
import hashlib
import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from cluster.session import Session, ray_session
from jobs.cli.log import Log
from pipeline.inputs.manifest import Manifest
from pipeline.models.find import Model
from pipeline.protocols import find_protocol
from pipeline.records import Concept, Done, Failure
from pipeline.scheduling.planning import plan
from pipeline.settings import InversionSettings, ModelSettings
from pipeline.store.parts import all_whole, create_layout
from pipeline.store.publish import publish, publish_failures
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import StorageError, without_credentials

if TYPE_CHECKING:
    from eval.judges.nearest_words import NearestWords
    from jobs.application.progress import ProgressDisplay
    from pipeline.scheduling.driver import Progress
    from pipeline.scheduling.worker_process import WorkerProcess

ALL_DONE, SOME_FAILED = 0, 1
PACKAGES = ("ray", "torch", "diffusers", "transformers", "open_clip_torch", "pyarrow", "wordmint")


class NotStartedError(Exception):
    """Something only the cluster could tell, and that must be mended before a word is learned."""


class TooManyFailuresError(Exception):
    """More concepts failed than the person who started the run was ready to accept."""


class Job:
    """done: concept -> fingerprint. failures: concept -> why it has no word."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        settings: InversionSettings,
        manifest: Manifest,
        model: Model,
        run: RunFolder,
        log: Log,
        worker: "type[WorkerProcess] | None" = None,
    ) -> None:
        self.arguments, self.settings, self.manifest = arguments, settings, manifest
        self.model, self.folder, self.log, self.worker = model, run, log, worker
        self.protocol = find_protocol(arguments.protocol)
        self.model_settings = ModelSettings(
            arguments.dtype, arguments.text_encoder_dtype, arguments.first_stage_dtype, arguments.offload_first_stage
        )
        self.began = time.monotonic()
        self.done: dict[str, str] = {}
        self.failures = {failure.concept: failure for failure in manifest.failures}

    def run(self) -> int:
        """The exit code of a run that came to its end."""
        total = len(self.manifest.concepts) + len(self.manifest.failures)
        parts = create_layout(self.folder, total)
        planned = plan(
            self.manifest.concepts, self.folder, self.model, self.model_settings.label, self.settings,
            dict(self.folder.storage.options), retry_failed=self.arguments.retry_failed,
        )  # fmt: skip
        self.done |= planned.done
        self.failures |= {failure.concept: failure for failure in planned.failed}
        said = f"to do     {len(planned.left)} of {total} concepts; {len(self.done)} are done, {len(self.failures)} failed before"
        self.log.say("plan", said, left=len(planned.left), done=len(self.done), failed=len(self.failures))
        if not planned.left and self._is_reported() and all_whole(self.folder):
            return self._end("nothing to do")
        with ray_session(self.arguments.ray_address) as session:
            self._refuse_local_output(session)
            self._write_run_json(session, None, finished=False)
            digests = self._invert(planned.left, session) if planned.left else None
            for name in publish(self.folder, self.done, parts):
                reason = "its files vanished from the run folder before they were published; the same command learns it again"
                self.failures[name] = Failure(name, "worker", reason, fingerprint=self.done.pop(name))
            publish_failures(self.folder, self.failures.values())
            self._write_run_json(session, digests, finished=False)
            self._score(session)
            self._write_run_json(session, digests, finished=True)
        return self._end(f"finished in {time.monotonic() - self.began:.0f} s")

    def _refuse_local_output(self, session: Session) -> None:
        if session.several_nodes and self.folder.storage.is_local and not self.arguments.shared_filesystem:
            raise NotStartedError(
                f"--output {self.folder.storage.url} is a local path, but this cluster has or will have several nodes and "
                "each would write its own: give an object store's URL, or --shared-filesystem if all nodes see this path"
            )

    def _invert(self, left: tuple[Concept, ...], session: Session) -> tuple[str, str] | None:
        # Ray takes a second to import: a run with nothing to do never gets here.
        from jobs.application.progress import ProgressDisplay
        from pipeline.scheduling.deadlines import Deadlines
        from pipeline.scheduling.driver import Driver, Resources, WorkersNeverStartedError
        from pipeline.scheduling.prometheus import RunMetrics
        from pipeline.scheduling.worker_interface import WorkerSettings
        from pipeline.scheduling.worker_process import WorkerProcess

        arguments = self.arguments
        gpus = arguments.gpus_per_worker if arguments.gpus_per_worker is not None else float(session.gpus > 0)
        fit = int(session.gpus // gpus if gpus else session.cpus // arguments.cpus_per_worker)
        resources = Resources(arguments.workers or max(1, fit), arguments.cpus_per_worker, gpus)
        settings = WorkerSettings(
            model=self.model.name, model_digest=self.model.digest, device="cuda" if gpus else "cpu",
            threads=max(1, int(arguments.cpus_per_worker)), slots=arguments.slots, inversion=self.settings,
            protocol=self.protocol, run=self.folder, storage_options=dict(self.folder.storage.options),
            checkpoint_seconds=arguments.checkpoint_seconds, look=self._look("cuda" if gpus else "cpu"),
            model_settings=self.model_settings,
        )  # fmt: skip
        self.log.say("workers", f"workers   up to {resources.workers} on {settings.device}", workers=resources.workers)
        display, metrics = ProgressDisplay(self.folder, self.log, (len(self.done), len(self.failures))), RunMetrics()
        deadlines = Deadlines(
            placing=arguments.placing_seconds, stall=arguments.stall_seconds, concept=arguments.concept_seconds
        )

        def report(progress: "Progress") -> None:
            display(progress)
            metrics(progress)

        driver = Driver(settings, resources, self._record, report, deadlines, self.worker or WorkerProcess)
        try:
            digests = driver.run(iter(left), len(left))
        except WorkersNeverStartedError as error:
            raise NotStartedError(f"no worker could load {self.model.name!r}: {error}") from error
        except BaseException:
            self._leave(display, driver.progress())
            raise
        display.write("scoring", driver.progress())
        if digests is not None and digests[0] != digests[1]:
            raise RuntimeError(
                f"the frozen weights changed during the run, from {digests[0]} to {digests[1]}: its words cannot be trusted"
            )
        return digests

    def _look(self, device: str) -> "NearestWords | None":
        if self.settings.start != "nearest":
            return None
        from eval.judges.nearest_words import NearestWords

        return NearestWords(self.settings.start_clip, device)

    def _leave(self, display: "ProgressDisplay", progress: "Progress") -> None:
        """What a run that is cut short still says."""
        display.write("cut short", progress)
        if self.failures:
            publish_failures(self.folder, self.failures.values())

    def _record(self, concept: Concept, result: Done | Failure) -> None:
        if isinstance(result, Done):
            self.done[concept.name] = result.fingerprint
            if self.arguments.retry_failed:
                self.folder.forget_failure(concept.name, result.fingerprint)
            return
        self.failures[concept.name] = result
        self.folder.record_failure(result)
        most = self.arguments.max_failures
        if most is not None and len(self.failures) > most:
            raise TooManyFailuresError(
                f"{len(self.failures)} concepts failed, more than --max-failures {most}; the last one:\n"
                f"  {result.concept}: {result.reason}\nAll are in {without_credentials(self.folder.storage.url)}/failures/."
            )

    def _score(self, session: Session) -> None:
        from eval.scores.drawn_pictures import RunModel
        from eval.scores.score_run import Judgement, score_run
        from jobs.application.report_run import headline, write_report

        self.log.say("scoring", "scoring")
        # A finished run under another protocol than it was drawn by has its words drawn again, not learned again.
        drawing = RunModel(
            self.model.name,
            session.device,
            self.model_settings,
            self.settings.seed,
            self.settings.resolution,
            self.folder.storage.options,
        )
        judgement = Judgement(
            self.protocol, self.model.name, self.model.digest, self.arguments.clip, session.device, drawing
        )
        scored = score_run(self.folder, judgement)
        summary = write_report(self.folder, scored.under, self.folder.read_json("run.json"))
        if summary.concepts:
            self.log.say("scores", headline(summary))

    def _write_run_json(self, session: Session, digests: tuple[str, str] | None, *, finished: bool) -> None:
        self.folder.write_json("run.json", {
            "manifest": self.manifest.url, "manifest_digest": self.manifest.digest,
            "model": self.model.name, "model_family": self.model.family, "model_digest": self.model.digest,
            "frozen_weights": None if digests is None else {"before": digests[0], "after": digests[1]},
            "clip": self.arguments.clip, "protocol": self.protocol.label, "protocol_settings": self.protocol.as_dict(),
            "settings": self.settings.as_dict(),
            "model_settings": asdict(self.model_settings),
            "slots": self.arguments.slots or "measured",
            "cluster": {"cpus": session.cpus, "gpus": session.gpus, "nodes": session.nodes},
            "counts": {"total": len(self.manifest.concepts) + len(self.manifest.failures), "done": len(self.done),
                       "failed": len(self.failures)},
            "fingerprint_of_all": self._fingerprint_of_all(),
            "seconds": round(time.monotonic() - self.began, 1), "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "finished": finished, "versions": {name: _version(name) for name in PACKAGES},
        })  # fmt: skip

    def _is_reported(self) -> bool:
        """Whether the last run of this folder ended with just these words, this CLIP and this protocol in its report."""
        try:
            last = self.folder.read_json("run.json")
        except StorageError:
            return False
        wanted = {
            "finished": True,
            "clip": self.arguments.clip,
            "protocol": self.protocol.label,
            "fingerprint_of_all": self._fingerprint_of_all(),
        }
        return all(last.get(key) == value for key, value in wanted.items())

    def _fingerprint_of_all(self) -> str:
        failed = {failure.concept: failure.fingerprint for failure in self.failures.values()}
        return hashlib.sha256(json.dumps([self.done, failed], sort_keys=True).encode()).hexdigest()

    def _end(self, said: str) -> int:
        said = f"{said}: {len(self.done)} concepts done, {len(self.failures)} failed"
        for name, failure in sorted(self.failures.items())[:20]:
            said += f"\n  {name}: {failure.reason}"
        if len(self.failures) > 20:
            said += f"\n  and {len(self.failures) - 20} more, in {self.folder.storage.url}/failures/"
        report = without_credentials(self.folder.storage.url).rstrip("/") + "/report/index.html"
        self.log.say("end", said, done=len(self.done), failed=len(self.failures))
        self.log.say("report", f"report    {report}", url=report)
        return SOME_FAILED if self.failures else ALL_DONE


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
