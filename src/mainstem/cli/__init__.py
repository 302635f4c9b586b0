"""The command line: one file a verb, imported when that verb is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from mainstem.errors import MainstemError, suggest

VERBS = {
    "train": "train, evaluate and seal a model of your data",
    "evaluate": "metrics with 95 % intervals beside a trivial baseline",
    "predict": "predictions for a file, a folder or standard input",
    "verify": "hold a model against its replay, here or at a live server",
    "serve": "answer predictions over HTTP",
    "pretrain": "train a backbone from scratch, or go on from one that was brought",
    "export": "seal what an unfinished run has, or a backbone alone, as a model",
    "compress": "make a model smaller and faster, and seal it again",
    "inspect": "what data, a model or a run is, what looks wrong, whether a pretraining run fits",
    "example": "write a small data set and the command that uses it",
    "list": "tasks, objectives, backbones, modalities, runtimes, methods of compression",
    "doctor": "what is installed, what is missing, what this machine can do",
}
MISTAKE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0, 2 for what the user can mend, 130 for Ctrl-C."""
    try:
        code = _run([*(sys.argv[1:] if argv is None else argv)])  # the name `list` is the verb's module here
        sys.stdout.flush()
        return code
    except MainstemError as error:
        say_error(str(error))
        return MISTAKE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the exit does not flush into the closed pipe
        return BROKEN_PIPE


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if argv[0] == "--version":
        import mainstem

        print(f"mainstem {mainstem.__version__}")
        return 0
    verb, *rest = argv
    if verb not in VERBS:
        kind = "option" if verb.startswith("-") else "command"
        known = ("--help", "--version") if kind == "option" else VERBS
        raise MainstemError(f"there is no {kind} '{verb}'", do=suggest(verb, known))
    module = import_module(f"mainstem.cli.{verb}")
    return _call(module.command, f"mainstem {verb}", module.rewrite(rest) if hasattr(module, "rewrite") else rest)


def _call(command: Callable[..., Any], name: str, arguments: list[str]) -> int:
    """Parse the arguments of one verb by its signature and call it. Raises MainstemError for those that make no sense."""
    import typer

    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command()(command)
    try:
        code = typer.main.get_command(app).main(arguments, prog_name=name, standalone_mode=False)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:  # the parser's errors have no public base in every version of typer
        if not hasattr(error, "format_message"):
            raise
        raise MainstemError(_usage(error), do=f"`{name} --help` shows what it takes.") from None
    return code if isinstance(code, int) else 0


def _usage(error: Any) -> str:
    """What the parser has to say, an unknown option with the nearest one."""
    option, near = getattr(error, "option_name", ""), getattr(error, "possibilities", None) or ()
    if not option:
        return str(error.format_message()).rstrip(".")
    return f"there is no option '{option}'" + (f". Did you mean {' or '.join(near)}?" if near else "")


def overview() -> str:
    """What `mainstem --help` prints."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in VERBS.items())
    return (
        "Usage: mainstem COMMAND …\n\nAdapt one backbone to many tasks, and ship exactly the model you measured.\n\n"
        f"{verbs}\n\n`mainstem COMMAND --help` shows what a command takes. Begin with `mainstem example reviews`."
    )


def say_error(text: str) -> None:
    """One sentence on standard error."""
    print(f"{red('error:')} {text}", file=sys.stderr)


def red(text: str) -> str:
    """The text in red where standard error is a terminal that shows colours."""
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[31m{text}\x1b[0m" if coloured else text


def note(text: str) -> None:
    """One note on standard error."""
    print(text, file=sys.stderr, flush=True)
