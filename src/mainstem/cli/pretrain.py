"""`mainstem pretrain --objective NAME -o DIR`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from typer import Option

from mainstem.cli import INTERRUPTED, note
from mainstem.cli.train import assigned, interruptible


def command(
    out: Annotated[str, Option("-o", "--out", metavar="DIR", help="the run folder; the backbone lies in DIR/backbone")],
    objective: Annotated[str, Option(metavar="NAME", help="`mainstem list objectives`")] = "",
    steps: Annotated[int | None, Option(metavar="N")] = None,
    lr: Annotated[float | None, Option(metavar="X")] = None,
    optimizer: Annotated[str | None, Option(metavar="NAME", help="adamw, muon, …")] = None,
    schedule: Annotated[str | None, Option(metavar="NAME", help="constant, cosine, …")] = None,
    seed: Annotated[int | None, Option(metavar="N")] = None,
    resume: Annotated[bool, Option("--resume", help="go on with an unfinished run")] = False,
    config: Annotated[str, Option("-c", "--config", metavar="FILE", help="a config; flags win over it")] = "",
    assignments: Annotated[list[str] | None, Option("--set", metavar="A.B=VALUE", help="any field of the config")] = None,
) -> int:
    """Train a backbone from scratch. So far the in-context network for tables, which `train` does not take yet."""
    from mainstem import api
    from mainstem.training.run import Stop

    training = {"steps": steps, "lr": lr, "optimizer": optimizer, "schedule": schedule}
    settings = {f"training.{name}": value for name, value in training.items() if value is not None}
    settings |= {"seed": seed} if seed is not None else {}
    settings |= assigned(assignments or [])
    stop, reporter = Stop(), _Reporter()
    with interruptible(stop, "stopping: the backbone is written as it stands (once more stops at once)"), reporter:
        made = api.pretrain(
            objective, out=out, config=config or None, resume=resume, say=reporter.say, report=reporter, stopped=stop, **settings
        )
    loss = "" if made.valid is None else f", held-out loss {made.valid:.4f}"
    print(f"Backbone: {made.backbone} ({made.steps:,} steps{loss})")
    if made.interrupted:
        note("interrupted: the backbone is as it stood; --resume goes on")
    return INTERRUPTED if made.interrupted else 0


class _Reporter:
    """A bar for each stage, and a line for each look at held-out data."""

    def __init__(self) -> None:
        self.stage = 0
        self.bar: Any = None

    def __enter__(self) -> _Reporter:
        return self

    def __exit__(self, *error: object) -> None:
        self._switch(0)

    def say(self, text: str) -> None:
        """A sentence of the run."""
        self._switch(0)
        note(text)

    def __call__(self, figures: Mapping[str, Any]) -> None:
        """Figures of one step or of one look at held-out data."""
        if "warning" in figures:
            self.say(str(figures["warning"]))
        elif "step" in figures:
            self._switch(figures["stage"], figures.get("total"))
            if figures.get("ended"):
                self.bar.epoch(figures["step"], {"loss": figures["loss"], "held-out": figures.get("valid")})
            else:
                self.bar.step(figures["step"], figures.get("loss", float("nan")), figures["rows"])

    def _switch(self, stage: int, total: int | None = None) -> None:
        if stage == self.stage:
            return
        if self.bar is not None:
            self.bar.__exit__(None, None, None)
        self.stage, self.bar = stage, None
        if stage:
            from mainstem.training.progress import Progress

            self.bar = Progress(f"stage {stage}", total, log_every=1, units=("step", "batches")).__enter__()
