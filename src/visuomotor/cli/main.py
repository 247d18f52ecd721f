"""`visuomotor VERB`: finds the verb's module and runs it. Nothing heavy is imported before the verb is known."""

import errno
import os
import sys
from importlib import import_module

from visuomotor import __version__
from visuomotor.spelling import did_you_mean

VERBS = {
    "demo": ("visuomotor.cli.demo", "demonstrations, training, evaluation and report in one go"),
    "collect": ("visuomotor.cli.collect", "record demonstrations of a simulated robot as a LeRobot v3 data set"),
    "data": (
        "visuomotor.cli.data",
        "look at a data set: info, stats, doctor, view, embodiment, conversations, labels, annotate",
    ),
    "train": ("visuomotor.cli.train", "train a recipe, or fine-tune a checkpoint on your own data"),
    "eval": ("visuomotor.cli.evaluate", "roll a checkpoint out in a simulator, with controls and intervals"),
    "eval-text": ("visuomotor.cli.eval_text", "ask a checkpoint questions on held-out images"),
    "play": ("visuomotor.cli.play", "a page on which a policy drives a simulated robot, and you tell it what to do"),
    "serve": ("visuomotor.cli.serve", "serve a checkpoint to robots and benchmarks (openpi, vla-eval)"),
    "report": ("visuomotor.cli.report", "write the HTML report of a run's folder"),
    "study": ("visuomotor.cli.study", "train and roll out the arms of a study, and compare them"),
    "robochallenge": ("visuomotor.cli.robochallenge", "drive RoboChallenge's robots, or rehearse on a mock of it"),
    "convert": ("visuomotor.cli.convert", "published checkpoints into ours, and back"),
    "model": ("visuomotor.cli.model", "parameters, FLOPs, bytes and roofline time of a model"),
    "info": ("visuomotor.cli.info", "versions, devices, what is installed"),
}


def usage() -> str:
    """The text of `visuomotor --help`."""
    rows = "\n".join(f"  {verb:<13} {text}" for verb, (_, text) in VERBS.items())
    return (
        f"visuomotor {__version__}: train, ablate, evaluate and serve vision-language-action robot policies\n\n"
        f"usage: visuomotor VERB [options]      (visuomotor VERB --help explains a verb)\n\n{rows}\n\n"
        "One process at a time writes into a folder: others are refused, also with --resume or --overwrite. The lock\n"
        "of a process that died is taken over; --break-lock takes one that was left on another host.\n\n"
        "Errors are one sentence; set VISUOMOTOR_DEBUG=1 for the traceback."
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(usage())
        return 0
    if arguments[0] in {"--version", "-V"}:
        print(__version__)
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in VERBS:
        hint = did_you_mean(verb, VERBS)
        print(f"visuomotor: unknown verb {verb!r}.{hint} Known: {', '.join(VERBS)}.", file=sys.stderr)
        return 2
    os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        return import_module(VERBS[verb][0]).run(rest)
    except KeyboardInterrupt as stop:
        print(f"visuomotor {verb}: stopped. {stop}".rstrip(), file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, ImportError, OverflowError) as error:  # OverflowError: port 80000
        if os.environ.get("VISUOMOTOR_DEBUG"):
            raise
        print(f"visuomotor {verb}: {sentence(error)}", file=sys.stderr)
        return 1


def sentence(error: Exception) -> str:
    """The error's text on one line; the system's own errors are put into words."""
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, OSError) or not error.errno:
        return text
    what = error.strerror or text
    if error.errno == errno.ENOSPC and what == os.strerror(errno.ENOSPC):
        where = f" of {error.filename}" if error.filename else ""
        return f"the disk{where} is full. What was written before is intact: free some space, and go on with --resume."
    return f"{error.filename}: {what}." if error.filename else what


if __name__ == "__main__":
    sys.exit(main())
