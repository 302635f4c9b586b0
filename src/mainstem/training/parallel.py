"""Several processes that train one network, as `torchrun` starts them: who is who, and what they tell each other (gloo). No torch
until there are several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

_PATIENCE = timedelta(hours=12)  # tokenising is done by the first process alone while the others wait


@dataclass(frozen=True)
class Ranks:
    """This process among `world` of them. The first alone writes and speaks."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes."""
        return self.rank == 0

    def add(self, tensors: list[Any]) -> None:
        """Replace each tensor by its sum over all processes."""
        import torch
        from torch import distributed

        flat = torch.cat([tensor.flatten().float() for tensor in tensors])
        distributed.all_reduce(flat)
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        if self.world == 1:
            return flag
        import torch
        from torch import distributed

        told = torch.tensor(float(flag))
        distributed.all_reduce(told)
        return float(told) > 0

    def wait(self) -> None:
        """Go on once all processes have come here."""
        self.any(False)


ALONE = Ranks()


def announced() -> Ranks:
    """What `torchrun` says of this process."""
    return Ranks(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


@contextmanager
def group() -> Iterator[Ranks]:
    """The processes that `torchrun` started, connected; without it this one alone."""
    ranks = announced()
    if ranks.world == 1:
        yield ranks
        return
    from torch import distributed

    distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield ranks
        distributed.barrier()  # else one may take the connection down while another still speaks
    finally:
        distributed.destroy_process_group()
