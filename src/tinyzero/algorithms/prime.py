"""PRIME: token rewards from a model that only ever saw outcomes (Cui et al., arXiv:2502.01456, eq. 3-7).

    r_t = beta log(prm(y_t) / reference(y_t)),    prm: cross-entropy of sigmoid(sum_t r_t) against right or wrong
    A_t = sum_{s >= t} (r_s - mean of the others' r)  +  R - mean of the others' R,    then PPO's clip
    other here: the sum is whitened over the batch's tokens (released code: too, paper: not named)

Reward model and reference both start as the base, so at first r is 0 and this is leave-one-out exactly, before
whitening. Without process rewards (`process = 0`) there is no reward model at all, and it stays so. Groups of which
fewer than 0.2 or more than 0.8 are right are dropped and drawn anew, at most `rollout.refills` times; what that
costs is reported. (That is the paper's band, for its 4 answers a problem; recipes with 16 have a wider one.)

Where the released code departs from the paper, the paper is followed; `baseline = "code"` and `norm = "batch"`
are the code's: deviations within a response stretched by K/(K - 1); r divided by the batch's largest return, by
which beta cancels. Its whitening over all tokens is kept (`whiten`), though the paper does not name it. The released
`update = "before"` lost the coefficients and used the scores of before the update; here both options do what they
say, and "after" is the paper's order. The reward model takes as many updates a batch as the policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field, model_validator
from torch import Tensor

from tinyzero.algorithms import advantages, losses, stages
from tinyzero.algorithms.base import Metrics
from tinyzero.algorithms.options import Filter, PolicyOptions
from tinyzero.errors import UserError
from tinyzero.types import Learner, Lesson, Scorer

if TYPE_CHECKING:
    from tinyzero.batching import Batch, Totals


class PRIMEOptions(PolicyOptions):
    """PRIME's own choices; the other stages are inherited."""

    by_token: ClassVar[bool] = True

    filter: Filter = Field("band", description="groups dropped and drawn anew")
    beta: float = Field(
        0.05, gt=0, le=1_000, description="token rewards are this times log(PRM/reference)"
    )
    outcome: float = Field(
        1.0, ge=0, le=1e6, description="weight of the outcome's advantage; whitened, a ratio"
    )
    process: float = Field(
        1.0, ge=0, le=1e6, description="weight of the process rewards'; 0 needs no reward model"
    )
    baseline: Literal["paper", "code"] = Field(
        "paper", description="process rewards against the others' mean, or as released"
    )
    norm: Literal["none", "batch"] = Field(
        "none", description="process rewards as they are, or over the largest return"
    )
    update: Literal["after", "before"] = Field(
        "after", description="train the reward model after it is asked, or before"
    )
    gamma: float = Field(1.0, gt=0, le=1, description="discount of later process rewards")
    whiten: bool = Field(True, description="normalise advantages over all tokens of the batch")

    @property
    def without_effect(self) -> set[str]:
        """Beside the shared ones: without process rewards, the options of how they are made; their scale, where
        nothing else is added to them and whitening undoes it."""
        unmade = set() if self.process else {"beta", "baseline", "norm", "update", "gamma"}
        undone = {"norm"} if self.whiten and not self.outcome else set()
        return super().without_effect | unmade | undone

    @model_validator(mode="after")
    def _rewards_remain(self) -> PRIMEOptions:
        if not self.outcome and not self.process:
            raise ValueError("outcome and process are both 0: no reward is left to learn from")
        if self.refresh:
            raise ValueError(
                "refresh would move the reference that process rewards are measured against: leave it out"
            )
        return self


class PRIME(stages.StagedAlgorithm):
    """Process reinforcement through implicit rewards."""

    Options = PRIMEOptions
    options: PRIMEOptions

    def __init__(self, options: PRIMEOptions | None = None) -> None:
        super().__init__(options)
        self.min_samples = 2  # the others are the baseline
        if self.options.process:
            self.roles = ("prm", "reference")

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        """The outcome's advantage and, beside it, the process rewards'."""
        o = self.options
        batch = stages.prepare(batch, models, o)
        outcome = advantages.group_advantages(
            stages.response_rewards(batch, o), batch.groups, "leave_one_out", "none"
        )
        found, lesson = o.outcome * advantages.broadcast(outcome, batch.mask), Lesson()
        if o.process:
            batch, rewards, lesson = self._process_rewards(batch, models)
            found = found + o.process * advantages.process_advantages(
                rewards, batch.mask, batch.groups, o.baseline, o.gamma
            )
        if o.whiten:
            found = advantages.whiten(found, batch.mask)
        return replace(batch, advantages=found), lesson

    def _process_rewards(
        self, batch: Batch, models: Mapping[str, Scorer]
    ) -> tuple[Batch, Tensor, Lesson]:
        """The batch with what the reward model's loss needs, and beta log(prm/reference) (B, T)."""
        if bool(batch.graded.any()):
            raise UserError(
                "prime's reward model learns from right or wrong answers, and here some are graded: "
                "take --algorithm.process 0, or another algorithm"
            )
        o, reference = self.options, batch.ref_logprobs
        reference = models["reference"].score(batch) if reference is None else reference
        batch = replace(batch, ref_logprobs=reference)
        lesson = Lesson()
        if o.update == "before":
            learner = cast(Learner, models["prm"])
            lesson = Lesson(trained={"prm": learner.update(batch)})
        rewards = o.beta * (models["prm"].score(batch) - reference) * batch.mask
        if o.norm == "batch":
            rewards = rewards / (advantages.return_to_go(rewards, batch.mask).abs().max() + 1e-6)
        return batch, rewards, lesson

    def loss(
        self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals
    ) -> tuple[Tensor, Metrics]:
        """The policy's surrogate, or the reward model's cross-entropy."""
        if role == "policy":
            return stages.policy_loss(outputs, batch, totals, self.options)
        assert batch.ref_logprobs is not None
        ratios = outputs["logprobs"] - batch.ref_logprobs
        loss = losses.implicit_reward_loss(
            ratios, batch.mask, batch.right, self.options.beta, totals.sequences
        )
        found = (ratios.detach() * batch.mask).sum(dim=1) > 0
        count = batch.mask.any(dim=1).sum()
        return loss, {"accuracy": ((found == batch.right).sum(), count)}


ALGORITHM = PRIME
