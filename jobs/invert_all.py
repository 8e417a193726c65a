"""Learn one new word for every concept of a manifest.

  python jobs/invert_all.py jobs/demo/manifest.csv --output runs/demo
  ray job submit --working-dir . -- python jobs/invert_all.py s3://bucket/manifest.csv --output s3://bucket/run-7

The same command again goes on where the last one ended, and does nothing when all is done.

Exit codes: 0 all concepts done; 1 some failed, listed; 2 nothing was started: bad arguments, manifest or model;
3 the run was cut short.
"""

import argparse
import hashlib
import json
import sys
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

from cluster.destination import default_output
from cluster.session import Session, ray_session
from jobs.arguments import add_storage_and_cluster
from pipeline.manifest import Manifest, ManifestError, read_manifest
from pipeline.models import MINI, Model, ModelError, find_model
from pipeline.planning import Plan, plan
from pipeline.protocols import PROTOCOLS
from pipeline.publish import plan_parts, publish, publish_failures
from pipeline.records import Done, Failure, Task
from pipeline.run_folder import RunFolder
from pipeline.settings import InversionSettings
from pipeline.storage import Storage, StorageError, parse_storage_options, without_credentials

ALL_DONE, SOME_FAILED, NOT_STARTED, CUT_SHORT = 0, 1, 2, 3
# A GPU is filled by several concepts in one batch; a CPU gains little, and shows its first word sooner with few.
SLOTS = {"cuda": 4, "cpu": 2}


def parser() -> argparse.ArgumentParser:
    defaults = InversionSettings()
    parser = argparse.ArgumentParser(
        prog="invert_all.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "manifest", metavar="MANIFEST", help="CSV, JSONL or Parquet, a path or any fsspec URL; one row, one concept"
    )

    what = parser.add_argument_group("what goes where")
    what.add_argument(
        "--output",
        metavar="URL",
        help="run folder, a path or any fsspec URL (default: beside the manifest or in runs/)",
    )
    what.add_argument(
        "--model", default=MINI, metavar="ID|PATH", help="diffusers folder or hub id (default: the shipped mini model)"
    )
    what.add_argument(
        "--clip", default="mini", metavar="NAME", help="open_clip model that scores (default: the shipped mini CLIP)"
    )
    what.add_argument(
        "--protocol", default="quick", choices=sorted(PROTOCOLS), help="which pictures are drawn and scored"
    )
    what.add_argument("--skip-invalid", action="store_true", help="record bad manifest rows as failures and go on")
    what.add_argument("--retry-failed", action="store_true", help="try again what failed before with the same inputs")

    how = parser.add_argument_group("how a word is learned")
    how.add_argument(
        "--steps",
        type=int,
        default=defaults.steps,
        metavar="N",
        help="budget of optimiser steps (default: %(default)s)",
    )
    how.add_argument(
        "--learning-rate",
        type=float,
        default=defaults.learning_rate,
        metavar="X",
        help="of AdamW, never rescaled (default: %(default)s)",
    )
    how.add_argument(
        "--batch-size",
        type=int,
        default=defaults.batch_size,
        metavar="B",
        help="pictures a step (default: %(default)s)",
    )
    how.add_argument(
        "--resolution", type=int, metavar="R", help="side of the training pictures in pixels (default: the model's own)"
    )
    how.add_argument(
        "--crop",
        default=defaults.crop,
        choices=("centre", "pad", "squash"),
        help="how a picture becomes square (default: %(default)s)",
    )
    how.add_argument(
        "--no-flip", action="store_true", help="do not mirror training pictures: for writing, or left and right hands"
    )
    how.add_argument(
        "--early-stop",
        default=defaults.early_stop,
        choices=("dvar", "off"),
        help="stop when the word has converged (default: %(default)s)",
    )
    how.add_argument(
        "--seed", type=int, default=defaults.seed, metavar="S", help="of every random draw (default: %(default)s)"
    )

    where = parser.add_argument_group("where it runs")
    where.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="at most so many model holders (default: one a GPU, else one a CPU core)",
    )
    where.add_argument(
        "--slots",
        type=int,
        metavar="K",
        help="concepts in training at once on each worker (default: 4 on GPUs, 2 on CPUs)",
    )
    where.add_argument(
        "--gpus-per-worker", type=float, metavar="G", help="(default: 1 where the cluster has GPUs, else 0)"
    )
    where.add_argument(
        "--cpus-per-worker", type=float, metavar="C", default=1, help="also its torch threads (default: %(default)s)"
    )
    where.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the frozen model (default: bfloat16 on GPUs, float32 on CPUs)",
    )
    add_storage_and_cluster(where)
    where.add_argument("--shared-filesystem", action="store_true", help="all nodes see the local output path")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        settings = InversionSettings(
            steps=arguments.steps, batch_size=arguments.batch_size, learning_rate=arguments.learning_rate,
            resolution=arguments.resolution, crop=arguments.crop, flip=not arguments.no_flip,
            early_stop=arguments.early_stop, seed=arguments.seed,
        )  # fmt: skip
        options = parse_storage_options(arguments.storage_option)
        manifest = read_manifest(arguments.manifest, options, skip_invalid=arguments.skip_invalid)
        model = find_model(arguments.model)
        run = RunFolder(Storage(arguments.output or default_output(arguments.manifest), options))
        run.storage.write_bytes("_writable", b"")
        run.storage.delete("_writable")
    except (ManifestError, ModelError, StorageError, ValueError) as error:
        print(f"wordmint: nothing was started.\n{error}", file=sys.stderr)
        return NOT_STARTED
    print(f"manifest  {without_credentials(arguments.manifest)}: {len(manifest.concepts)} concepts")
    print(f"model     {model.name} ({model.family}, weights {model.digest[:12]})")
    print(f"output    {without_credentials(run.storage.url)}", flush=True)
    try:
        return Job(arguments, settings, manifest, model, run).run()
    except NotStartedError as error:
        print(f"wordmint: nothing was started.\n{error}", file=sys.stderr)
        return NOT_STARTED
    except KeyboardInterrupt:
        print("\nwordmint: cut short; the same command goes on from here.", file=sys.stderr)
        return CUT_SHORT
    except StorageError as error:
        print(f"wordmint: cut short by its storage; the same command goes on from here.\n{error}", file=sys.stderr)
        return CUT_SHORT
    except Exception:  # noqa: BLE001 - exit code 1 would say that the run had finished
        traceback.print_exc()
        print("wordmint: cut short by the error above; the same command goes on from here.", file=sys.stderr)
        return CUT_SHORT


class NotStartedError(Exception):
    """Something only the cluster could tell, and that must be mended before a word is learned."""


class Job:
    """One run of the job: plan, invert, publish, score, report."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        settings: InversionSettings,
        manifest: Manifest,
        model: Model,
        run: RunFolder,
    ) -> None:
        self.arguments, self.settings, self.manifest = arguments, settings, manifest
        self.model, self.folder = model, run
        self.protocol = PROTOCOLS[arguments.protocol]
        self.began = time.monotonic()
        self.failures: dict[str, tuple[str, Failure]] = {
            failure.concept: ("", failure) for failure in manifest.failures
        }

    def run(self) -> int:
        left = plan(
            self.manifest.concepts, self.folder, self.model, self.arguments.dtype or "auto", self.settings,
            dict(self.folder.storage.options), retry_failed=self.arguments.retry_failed,
        )  # fmt: skip
        self.failures |= {failure.concept: (print_, failure) for print_, failure in left.failed}
        total = len(self.manifest.concepts) + len(self.manifest.failures)
        print(
            f"to do     {len(left.tasks)} of {total} concepts; {left.done} are done, {len(self.failures)} failed before",
            flush=True,
        )
        if not left.tasks and self._is_reported(left):
            return self._end(left, "nothing to do")
        parts = plan_parts(self.folder, total)
        with ray_session(self.arguments.ray_address) as session:
            self._refuse_local_output(session)
            digests = self._invert(left, session) if left.tasks else None
            for name in publish(self.folder, left.expected, parts):
                reason = "its files vanished from the run folder before they were published; the same command learns it again"
                self.failures[name] = (left.expected[name], Failure(name, "worker", reason))
            publish_failures(self.folder, self.failures.values())
            self._write_run_json(left, session, digests, finished=False)
            self._score(session)
        self._write_run_json(left, session, digests, finished=True)
        return self._end(left, f"finished in {time.monotonic() - self.began:.0f} s")

    def _refuse_local_output(self, session: Session) -> None:
        if session.nodes > 1 and self.folder.storage.is_local and not self.arguments.shared_filesystem:
            raise NotStartedError(
                f"--output {self.folder.storage.url} is a local path, but this cluster has {session.nodes} nodes and "
                "each would write its own: give an object store's URL, or --shared-filesystem if all nodes see this path"
            )

    def _invert(self, left: Plan, session: Session) -> tuple[str, str] | None:
        # torch and diffusers take seconds to import: a run with nothing to do never gets here.
        from jobs.progress import ProgressDisplay
        from pipeline.driver import Driver, Resources, WorkersNeverStartedError
        from pipeline.worker import WorkerSettings

        arguments = self.arguments
        gpus = arguments.gpus_per_worker if arguments.gpus_per_worker is not None else float(session.gpus > 0)
        fit = int(session.gpus // gpus if gpus else session.cpus // arguments.cpus_per_worker)
        device = "cuda" if gpus else "cpu"
        slots = arguments.slots or SLOTS[device]
        resources = Resources(arguments.workers or max(1, fit), slots, arguments.cpus_per_worker, gpus)
        settings = WorkerSettings(
            model=self.model.name, device=device, threads=max(1, int(arguments.cpus_per_worker)),
            dtype=arguments.dtype or ("bfloat16" if gpus else "float32"), inversion=self.settings, protocol=self.protocol,
            run=self.folder, storage_options=dict(self.folder.storage.options),
        )  # fmt: skip
        print(
            f"workers   up to {resources.workers} on {settings.device}, {resources.slots} concepts at once on each",
            flush=True,
        )
        driver = Driver(settings, resources, self._record, ProgressDisplay(self.folder))
        try:
            digests = driver.run(iter(left.tasks), len(left.tasks))
        except WorkersNeverStartedError as error:
            raise NotStartedError(f"no worker could load {self.model.name!r}: {error}") from error
        if digests is not None and digests[0] != digests[1]:
            raise RuntimeError(
                f"the frozen weights changed during the run, from {digests[0]} to {digests[1]}: its words cannot be trusted"
            )
        return digests

    def _record(self, task: Task, result: Done | Failure) -> None:
        name = task.concept.name
        if isinstance(result, Failure):
            self.failures[name] = (task.fingerprint, result)
            self.folder.record_failure(result, task.fingerprint)
        elif self.arguments.retry_failed:
            self.folder.forget_failure(name, task.fingerprint)

    def _score(self, session: Session) -> None:
        from eval.evaluate import Judgement, score_run
        from jobs.report_run import headline, write_report

        print("scoring", flush=True)
        judgement = Judgement(self.protocol, self.model.name, self.model.digest, self.arguments.clip, session.device)
        scored = score_run(self.folder, judgement)
        summary = write_report(self.folder, scored.under, self.folder.read_json("run.json"))
        if summary.concepts:
            print(headline(summary))

    def _write_run_json(self, left: Plan, session: Session, digests: tuple[str, str] | None, *, finished: bool) -> None:
        packages = ("ray", "torch", "diffusers", "transformers", "open_clip_torch", "pyarrow", "wordmint")
        self.folder.write_json("run.json", {
            "manifest": self.manifest.url, "manifest_digest": self.manifest.digest,
            "model": self.model.name, "model_family": self.model.family, "model_digest": self.model.digest,
            "frozen_weights": None if digests is None else {"before": digests[0], "after": digests[1]},
            "clip": self.arguments.clip, "protocol": self.protocol.label, "settings": self.settings.as_dict(),
            "dtype": self.arguments.dtype or "auto", "slots": self.arguments.slots or "auto",
            "cluster": {"cpus": session.cpus, "gpus": session.gpus, "nodes": session.nodes},
            "counts": {"done": len(left.expected) - self._failed_among(left), "failed": len(self.failures)},
            "fingerprint_of_all": _digest(left.expected),
            "seconds": round(time.monotonic() - self.began, 1), "updated": datetime.now(UTC).isoformat(timespec="seconds"),
            "finished": finished, "versions": {name: _version(name) for name in packages},
        })  # fmt: skip

    def _failed_among(self, left: Plan) -> int:
        return sum(1 for name in self.failures if name in left.expected)

    def _is_reported(self, left: Plan) -> bool:
        """Whether the last run of this folder ended with just these words, this CLIP and this protocol in its report."""
        try:
            last = self.folder.read_json("run.json")
        except StorageError:
            return False
        wanted = {
            "finished": True,
            "clip": self.arguments.clip,
            "protocol": self.protocol.label,
            "fingerprint_of_all": _digest(left.expected),
        }
        return all(last.get(key) == value for key, value in wanted.items())

    def _end(self, left: Plan, said: str) -> int:
        done = len(left.expected) - self._failed_among(left)
        print(f"{said}: {done} concepts done, {len(self.failures)} failed")
        for name, (_, failure) in sorted(self.failures.items())[:20]:
            print(f"  {name}: {failure.reason}")
        if len(self.failures) > 20:
            print(f"  and {len(self.failures) - 20} more, in {self.folder.storage.url}/failures/")
        print(f"report    {without_credentials(self.folder.storage.url).rstrip('/')}/report/index.html")
        return SOME_FAILED if self.failures else ALL_DONE


def _digest(expected: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(expected, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
