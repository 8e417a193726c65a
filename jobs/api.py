"""The Python API, for a notebook or a scheduler's task: each function takes a frozen request and returns a frozen result.

    result = invert(RunRequest("manifest.csv", output="runs/demo"))
    night = evaluate(EvaluationRequest((result.url,)))
    pictures = generate(PictureRequest(result.url, ("a photo of <owl> on the beach",)))

The commands of this folder parse their arguments into these requests. docs/python_api.md has an example.
"""

from jobs.application.drawing.pictures import generate
from jobs.application.evaluation import evaluate
from jobs.application.night.plan_run import PlannedRun, plan_run
from jobs.application.requests import (
    EvaluationRequest,
    EvaluationResult,
    Gate,
    Limits,
    Listener,
    NotComparedError,
    NotStartedError,
    PictureRequest,
    PictureResult,
    Placement,
    RunRequest,
    RunResult,
    TooManyFailuresError,
)
from jobs.application.run import invert
from jobs.application.starts.start_fit import FitRequest, FitResult, fit_starts
from jobs.application.two_runs import DiffRequest, DiffResult, diff
from pipeline.sampling.blending import Blend

__all__ = [
    "Blend", "DiffRequest", "DiffResult", "EvaluationRequest", "EvaluationResult", "FitRequest", "FitResult", "Gate", "Limits",
    "Listener", "NotComparedError", "NotStartedError", "PictureRequest", "PictureResult", "Placement", "PlannedRun",
    "RunRequest", "RunResult", "TooManyFailuresError", "diff", "evaluate", "fit_starts", "generate", "invert", "plan_run",
]  # fmt: skip
