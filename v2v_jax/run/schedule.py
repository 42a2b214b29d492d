"""When what happens in a run: shares of its steps, resolved once the number of steps is known.

The configuration holds shares (`optimizer.warmup_share`, `grow_share`, `num_evaluations`), so that
`--config.num_steps` alone makes a run shorter or longer. Beside each stands a number of steps
(`optimizer.warmup_steps`, `grow_steps`, `eval_every`), which goes before it unless it is 0.
"""

from __future__ import annotations

import dataclasses

from ml_collections import ConfigDict

_LOG_LINES = 200  # of a run, where `log_every` is 0


def warmup_steps(optimizer: ConfigDict, num_steps: int) -> int:
    """The steps in which `config.optimizer` lets the rate rise; fewer than there are."""
    share = optimizer.get("warmup_share", 0.0)  # configurations before it have steps alone
    return min(optimizer.warmup_steps or round(share * num_steps), max(num_steps - 1, 0))


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The steps of a run; step k is the k-th, from 1.

    Attributes:
      num_steps: how many there are.
      warmup_steps: in which the learning rate rises.
      grow_steps: until all training videos are seen (`input.clips`); 0: from the first on.
      log_every, eval_every, save_every: steps from one to the next; save_every=0: none beside those
        with evaluations.
    """

    num_steps: int
    warmup_steps: int
    grow_steps: int
    log_every: int
    eval_every: int
    save_every: int

    @classmethod
    def of(cls, config: ConfigDict) -> Schedule:
        """What a validated configuration says; also one from before there were shares."""
        steps = config.num_steps
        evaluations = config.get("num_evaluations", 10)
        return cls(
            num_steps=steps,
            warmup_steps=warmup_steps(config.optimizer, steps),
            grow_steps=config.get("grow_steps", 0) or round(config.get("grow_share", 0.0) * steps),
            log_every=config.log_every or max(1, steps // _LOG_LINES),
            eval_every=config.eval_every or -(-steps // evaluations),
            save_every=config.save_every,
        )

    def is_logged(self, step: int) -> bool:
        """Whether the metrics of this step are written down."""
        return step % self.log_every == 0 or step == self.num_steps

    def is_evaluated(self, step: int) -> bool:
        """Whether there is an evaluation after this step."""
        return step % self.eval_every == 0 or step == self.num_steps

    def is_saved(self, step: int) -> bool:
        """Whether there is a checkpoint after this step although there is no evaluation."""
        return self.save_every > 0 and step % self.save_every == 0

    def __str__(self) -> str:
        parts = [f"Evaluated every {self.eval_every} steps, logged every {self.log_every}"]
        if self.warmup_steps:
            parts.append(f"the rate rises for {self.warmup_steps}")
        if self.grow_steps:
            parts.append(f"all videos are seen after {self.grow_steps}")
        return "; ".join(parts)
