"""Draws pictures of sentences with learned words in them, into a folder."""

import difflib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.addresses import ClusterError
from cluster.session import ray_session
from jobs.application.phases import phase
from jobs.application.recorded import allowed, refuse_changed
from jobs.application.requests import Listener, NotStartedError, PictureRequest, PictureResult
from pipeline.models.families import family_of
from pipeline.models.find import MINI, ModelError, find_model
from pipeline.records import AGAINST, Sample
from pipeline.sampling.blending import Blend, blended
from pipeline.settings import ModelSettings
from pipeline.store.catalogue.accepted import public_rows
from pipeline.store.catalogue.retired import RetiredWord, retired_words
from pipeline.store.parts import read_table
from pipeline.store.publish import SOURCES
from pipeline.store.run_folder import RunFolder
from pipeline.store.storage import Storage, StorageError, without_credentials
from pipeline.text_files import refuse_long

if TYPE_CHECKING:
    from jobs.application.drawing.best_pictures import Choose

Rows = Sequence[Mapping[str, Any]]  # of the table of embeddings
Words = dict[str, dict[str, np.ndarray]]  # placeholder -> text encoder -> float32 (V, D)
SHEET = "contact-sheet.png"
WORD_FILE, EMBEDDING_FILE = "word.safetensors", SOURCES["embeddings"][0]  # of a retired word
MOST_READ = 100  # retired words whose spelling is looked up for one unknown word of a prompt


def generate(request: PictureRequest, events: Listener | None = None) -> PictureResult:
    """Raises NotStartedError before anything is drawn: no such run, no known word in a prompt, or bad settings."""
    events = events or Listener()
    try:
        options = request.storage_options
        run = RunFolder(Storage(request.run, options))
        configuration = run.read_run("model", "model_digest", "model_settings")
        shown = without_credentials(request.run, options).rstrip("/")
        model = find_model(allowed(configuration["model"], request.model, "--model", shown), options)
        refuse_changed(model, configuration, shown)
        family = family_of(configuration.get("model_family", ""))
        family.refuse_unsuited(request.sampler)
        rows = public_rows(run, family.encoders)
        words = _words(rows)
        words |= _words_of_files(request.word_files, options, words, configuration)
        for blend in request.blends:
            words[blend.placeholder] = _blended(blend, words)
        if request.negative:
            family.refuse_negative("--negative")
        for text in (*request.prompts, request.negative):
            refuse_long(text)
        _refuse_unknown_words(request.prompts, request.negative, list(words), run)
        _refuse_negative_words(request.prompts, _negative_words(rows, request.word_files, options))
        bare = _bare_words(request.prompts, list(words))
        output = _unused(Storage(request.output or f"{request.run.rstrip('/')}/generated", options))
        choose = _chooser(run, request, rows, list(words))
    except (ModelError, StorageError, OSError, ValueError) as error:
        raise NotStartedError(str(error)) from error
    for prompt, word in bare:
        events.say(
            "bare", f"prompt {prompt!r} names {word[1:-1]} without brackets, which is plain text; the word is {word}"
        )
    try:
        with phase(events, "drawing") as counts:
            samples = _draw(request, configuration, model.name, words, output, choose, counts.of("drew", "pictures"))
    except (ClusterError, ModelError, ValueError) as error:
        raise NotStartedError(str(error)) from error
    events.say("pictures", f"{len(samples)} pictures and {SHEET} in {output.url}", count=len(samples))
    return PictureResult(output.url, samples)


def _draw(
    request: PictureRequest,
    configuration: Mapping[str, Any],
    model: str,
    words: Words,
    output: Storage,
    choose: "Choose",
    step: Callable[[int, int], None],
) -> tuple[Sample, ...]:
    # torch and diffusers take seconds to import; a mistyped prompt should be reported at once.
    from pipeline.randomness import derive_seed
    from pipeline.sampling.generation import generate
    from pipeline.sampling.grid import draw_grid, encode_png
    from pipeline.sampling.sampler import SamplerSettings

    sampler = SamplerSettings(request.sampler, request.steps, request.guidance)
    asked = [(prompt, index) for prompt in request.prompts for index in range(request.count * request.best_of)]
    against = f"{AGAINST}{request.negative}" if request.negative else ""
    seeds = [derive_seed(request.seed, "", prompt, index) for prompt, index in asked]
    samples, made = [], 0
    with ray_session(request.ray_address) as session:
        drawings = generate(
            [prompt + against for prompt, _ in asked],
            seeds,
            words,
            model,
            sampler,
            ModelSettings(**configuration["model_settings"]),
            1.0 if session.gpus else 0.0,
            output.options,
            configuration["model_digest"],
        )
        for prompt in request.prompts:
            drawn = []
            for drawing in itertools.islice(drawings, request.count * request.best_of):
                drawn.append(drawing)
                made += 1
                step(made, len(asked))
            for index, drawing in enumerate(choose(prompt, drawn)):
                png = encode_png(drawing.pixels)
                output.write_bytes(f"{request.prompts.index(prompt):03d}-{_slug(prompt)}-{index:02d}.png", png)
                samples.append(Sample("", "edit", prompt, "", index, drawing.seed, png))
    output.write_bytes(SHEET, draw_grid(", ".join(sorted(words))[:200], samples))
    kept = [{"prompt": sample.prompt, "index": sample.index, "seed": sample.seed} for sample in samples]
    described = {"model": configuration["model"], "sampler": request.sampler, "steps": request.steps,
                 "guidance": request.guidance, "pictures": kept}  # fmt: skip
    if request.negative:
        described["negative"] = request.negative
    if request.best_of > 1:
        described |= {"best_of": request.best_of, "judge": request.judge or MINI}
    if request.blends:
        described["blends"] = [str(blend) for blend in request.blends]
    output.write_bytes("generated.json", (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode())
    return tuple(samples)


def _chooser(run: RunFolder, request: PictureRequest, rows: Rows, placeholders: list[str]) -> "Choose":
    """From a prompt and what was drawn of it to what is kept. Raises ValueError and OSError for a judge that does not load."""
    if request.best_of == 1:
        return lambda _, drawn: drawn
    from jobs.application.drawing.best_pictures import chooser

    return chooser(run, rows, request.judge or MINI, request.count, placeholders)


def _words(rows: Rows) -> Words:
    words: Words = {}
    for row in rows:
        words.setdefault(row["placeholder"], {})[row["text_encoder"]] = np.array(row["vectors"], np.float32)
    return words


def _words_of_files(
    urls: Sequence[str],
    options: Mapping[str, Any],
    known: Words,
    configuration: dict[str, Any],
) -> Words:
    """A file that does not state its placeholder is called by its file name, as in AUTOMATIC1111."""
    from pipeline.store.word_files import MAX_BYTES, WordFileError, decode_word, stated_model, suited

    keys = family_of(configuration.get("model_family", "")).word_keys
    widths = {name: value.shape[1] for vectors in known.values() for name, value in vectors.items()}
    words = {}
    for url in urls:
        data = Storage(url, options).read_bytes(at_most=MAX_BYTES)
        try:
            name, vectors = decode_word(data)
            words[name or PurePosixPath(url).stem] = suited(vectors, widths or None, keys)
        except WordFileError as error:
            raise WordFileError(f"{without_credentials(url, options)}: {error}{stated_model(data)}") from error
    return words


def _blended(blend: Blend, words: Words) -> dict[str, np.ndarray]:
    try:
        return blended(blend, words)
    except ValueError as error:
        raise ValueError(f"--blend {error}") from None


def _negative_words(rows: Rows, urls: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    from pipeline.store.word_files import MAX_BYTES, decode_word, is_negative

    negative = {row["placeholder"] for row in rows if row["kind"] == "negative"}
    for url in urls:
        data = Storage(url, options).read_bytes(at_most=MAX_BYTES)
        if is_negative(data):
            negative.add(decode_word(data)[0] or PurePosixPath(url).stem)
    return sorted(negative)


def _refuse_negative_words(prompts: Sequence[str], negative: list[str]) -> None:
    from pipeline.sampling.generation import words_in

    for prompt in prompts:
        if there := words_in(prompt, negative):
            raise ValueError(
                f"prompt {prompt!r}: {there[0]} is a negative word, learned from pictures to be avoided; take it out of the "
                f"prompt and give --negative {there[0]!r}"
            )


def _refuse_unknown_words(prompts: Sequence[str], negative: str, known: list[str], run: RunFolder) -> None:
    from pipeline.sampling.generation import words_in

    if not prompts:
        raise ValueError("there is nothing to draw: give --prompt or --prompts")
    for prompt in (*prompts, negative):
        unknown = [word for word in re.findall(r"<[^<>\s]+>", prompt) if not words_in(word, known)]
        if unknown:
            near = difflib.get_close_matches(unknown[0], known, 3)
            if word := _retired(unknown[0], run):
                kept = without_credentials(run.storage.join(word.path(WORD_FILE)))
                raise ValueError(
                    f"prompt {prompt!r}: {word.concept} is no longer in the manifest, so its word is retired; to draw it all "
                    f"the same, give --word {kept}"
                )
            hint = f"did you mean {' or '.join(near)}?" if near else f"the run knows {', '.join(sorted(known)[:10])}"
            raise ValueError(f"prompt {prompt!r}: this run has no word {unknown[0]}; {hint}")


def _retired(placeholder: str, run: RunFolder) -> RetiredWord | None:
    """The retired word that prompts spell so and whose file is kept; of several, the one that retired last."""
    words = sorted(retired_words(run), key=lambda word: (placeholder == f"<{word.concept}>", word.day), reverse=True)
    for word in words[:MOST_READ]:
        rows = read_table(run, word.path(EMBEDDING_FILE), ["placeholder"])
        spelled = rows["placeholder"].to_pylist() if rows is not None and len(rows) else [f"<{word.concept}>"]
        if placeholder in spelled and run.storage.exists(word.path(WORD_FILE)):
            return word
    return None


def _bare_words(prompts: Sequence[str], known: Sequence[str]) -> list[tuple[str, str]]:
    """(prompt, word) where the word's name stands without its brackets beside another word, in the plural, or as words of its own
    ("red taxis" for <red-taxi>).

    Raises ValueError for a prompt with just such a name and no word at all: what is meant can hardly be the plain text.
    """
    from pipeline.sampling.generation import words_in

    names = {word[1:-1].lower(): word for word in known if word.startswith("<") and word.endswith(">")}
    apart = {" ".join(re.split(r"[-_.]+", name)): word for name, word in names.items()}
    longest = max((name.count(" ") + 1 for name in apart), default=0)
    uses = []
    for prompt in prompts:
        used = words_in(prompt, list(known))
        plain = prompt
        for word in used:
            plain = re.sub(re.escape(word), " ", plain, flags=re.IGNORECASE)
        bare = [names[name] for each in re.findall(r"[\w.-]+", plain.lower()) if (name := each.strip(".-")) in names]
        if bare and not used:
            raise ValueError(
                f"prompt {prompt!r}: {bare[0][1:-1]} without brackets is plain text, not the word {bare[0]}; write "
                f"{bare[0]}, or describe the thing in other words"
            )
        parts = re.findall(r"[^\W_]+", plain.lower())
        phrases = (" ".join(parts[at : at + count]) for at in range(len(parts)) for count in range(1, longest + 1))
        forms = ((each, each.removesuffix("s"), each.removesuffix("es")) for each in phrases)
        bare += [apart[each] for some in forms for each in some if each in apart]
        uses += [(prompt, word) for word in dict.fromkeys(bare) if word not in used]
    return uses


def _unused(output: Storage) -> Storage:
    """The folder, or a numbered one in it, so that no earlier sheet is overwritten."""
    if not output.exists(SHEET):
        return output
    number = next(number for number in itertools.count(2) if not output.exists(f"{number}/{SHEET}"))
    return output.folder(str(number))


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:60]
