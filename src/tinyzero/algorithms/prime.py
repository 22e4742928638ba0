"""PRIME: token rewards from a model that has only seen outcomes (Cui et al., arXiv:2502.01456).

    r_t = beta log(prm(y_t) / ref(y_t))
    A_t = sum_{s >= t} (r_s - mean r of the others)  +  R - mean R of the others,  then PPO's clip
    prm: minimise the cross-entropy of sigmoid(sum_t r_t) against right or wrong
    over groups with a share of right answers from 0.2 to 0.8
    default differs: A is whitened over all tokens of the batch (released code: too, paper: no)

These are equations 3 to 7 of the paper. prm is the reward model, a language model that learns from
right and wrong answers which tokens lead there. ref is its frozen reference, R the reward of the
rollout, and "the others" are the other rollouts of the same prompt.

- `beta` (0.05) scales the token rewards.
- `outcome` and `process` (1 and 1) weigh the two parts of the advantage. With `process` 0 there is
  no reward model and no reference.
- `filter`, `band_low` and `band_high` drop groups that are too hard or too easy. New ones are
  sampled in up to `rollout.refills` rounds. The band is the paper's, for 4 rollouts per prompt.
  Recipes with 16 rollouts use a wider one.
- The reward model takes as many updates per batch as the policy.

Assumption: answers are right or wrong, and there are at least two rollouts per prompt.

Degenerate case: the reward model and its reference both start as the initial policy. Until they
differ r_t is 0, and A is exactly the leave-one-out advantage (before whitening).

If the released code and the paper disagree, the paper is followed. These options choose the code:

- `baseline = "code"` makes the deviations of r within a rollout K / (K - 1) times as large, with K
  rollouts per prompt.
- `norm = "batch"` divides r by the largest return of the batch, which cancels `beta`.
- `update = "before"` trains the reward model before its rewards are used; "after" is the paper's
  order. (In the released code "before" loses the coefficients, and still uses the scores from
  before the update. Here it does what it says.)
- `whiten` is the exception: it is on although the paper does not mention it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field, model_validator

from tinyzero.algorithms import advantages, losses, stages
from tinyzero.algorithms.base import Metrics
from tinyzero.algorithms.options import Filter, PolicyOptions
from tinyzero.errors import UserError
from tinyzero.types import Learner, Lesson, Scorer

if TYPE_CHECKING:
    from torch import Tensor

    from tinyzero.batching import Batch, Totals


class PRIMEOptions(PolicyOptions):
    """Options of the process rewards, and those of the shared stages."""

    by_token: ClassVar[bool] = True

    filter: Filter = Field(
        "band",
        description=(
            "groups to drop and replace by new ones: none, all right or all wrong (flat), or those "
            "with a share of right answers outside a band"
        ),
    )
    beta: float = Field(
        0.05,
        gt=0,
        le=1_000,
        description="scale of the process rewards, beta log(reward model / reference)",
    )
    outcome: float = Field(
        1.0,
        ge=0,
        le=1e6,
        description="weight of the outcome's advantage; with whiten only outcome/process matters",
    )
    process: float = Field(
        1.0,
        ge=0,
        le=1e6,
        description="weight of the process rewards' advantage; 0 needs no reward model",
    )
    baseline: Literal["paper", "code"] = Field(
        "paper", description="leave-one-out baseline of the paper, or of the released code"
    )
    norm: Literal["none", "batch"] = Field(
        "none", description="divide process rewards by the batch's largest return, or by nothing"
    )
    update: Literal["after", "before"] = Field(
        "after", description="train the reward model after its rewards are computed, or before"
    )
    gamma: float = Field(1.0, gt=0, le=1, description="discount of later process rewards per token")
    whiten: bool = Field(
        True, description="shift and scale advantages to mean 0 and variance 1 over the batch"
    )

    @property
    def without_effect(self) -> set[str]:
        """Names of options that change nothing, given the values of the others."""
        ignored = super().without_effect
        if not self.process:
            ignored |= {"beta", "baseline", "norm", "update", "gamma"}
        if self.whiten and not self.outcome:
            ignored |= {"norm"}  # whitening undoes the scale, if nothing else is added
        return ignored

    @model_validator(mode="after")
    def _rewards_remain(self) -> PRIMEOptions:
        """Reject options that leave no reward, or rewards without a fixed reference."""
        if not self.outcome and not self.process:
            raise ValueError(
                "outcome and process are both 0, so there is nothing to learn from: "
                "make one of them positive"
            )
        if self.refresh:
            raise ValueError(
                f"refresh is {self.refresh}, but process rewards need a reference that stays as it "
                "is: remove refresh"
            )
        return self


class PRIME(stages.StagedAlgorithm):
    """Process reinforcement through implicit rewards."""

    Options = PRIMEOptions
    options: PRIMEOptions

    def __init__(self, options: PRIMEOptions | None = None) -> None:
        super().__init__(options)
        self.min_samples = 2  # the other rollouts of the prompt are the baseline
        if self.options.process:
            self.roles = ("prm", "reference")

    def annotate(self, batch: Batch, models: Mapping[str, Scorer]) -> tuple[Batch, Lesson]:
        """Add advantages: the weighted sum of those of the outcome and of the process rewards."""
        options = self.options
        batch = stages.prepare(batch, models, options)

        outcome = advantages.group_advantages(
            stages.response_rewards(batch, options), batch.groups, "leave_one_out", "none"
        )
        token_advantages = options.outcome * advantages.broadcast(outcome, batch.mask)

        lesson = Lesson()
        if options.process:
            batch, rewards, lesson = self._process_rewards(batch, models)
            process = advantages.process_advantages(
                rewards, batch.mask, batch.groups, options.baseline, options.gamma
            )
            token_advantages = token_advantages + options.process * process

        if options.whiten:
            token_advantages = advantages.whiten(token_advantages, batch.mask)
        return replace(batch, advantages=token_advantages), lesson

    def _process_rewards(
        self, batch: Batch, models: Mapping[str, Scorer]
    ) -> tuple[Batch, Tensor, Lesson]:
        """The batch with reference logprobs, the rewards beta log(prm / ref) (B, T), and a Lesson.

        With `update = "before"` the reward model is trained here, which the Lesson records. Raises
        UserError if an answer is neither right nor wrong.
        """
        options = self.options
        if bool(batch.graded.any()):
            raise UserError(
                "prime's reward model learns from right or wrong answers, but some of these are "
                "graded: use --algorithm.process 0, or another algorithm"
            )

        reference = batch.ref_logprobs
        if reference is None:
            reference = models["reference"].score(batch)
        batch = replace(batch, ref_logprobs=reference)

        lesson = Lesson()
        if options.update == "before":
            reward_model = cast(Learner, models["prm"])
            lesson = Lesson(trained={"prm": reward_model.update(batch)})

        rewards = options.beta * (models["prm"].score(batch) - reference) * batch.mask
        if options.norm == "batch":
            returns = advantages.return_to_go(rewards, batch.mask)
            rewards = rewards / (returns.abs().max() + 1e-6)
        return batch, rewards, lesson

    def loss(
        self, role: str, outputs: Mapping[str, Tensor], batch: Batch, totals: Totals
    ) -> tuple[Tensor, Metrics]:
        """The clipped loss of the policy, or the cross-entropy of the reward model."""
        if role == "policy":
            return stages.policy_loss(outputs, batch, totals, self.options)

        assert batch.ref_logprobs is not None
        log_ratios = outputs["logprobs"] - batch.ref_logprobs
        loss = losses.implicit_reward_loss(
            log_ratios, batch.mask, batch.right, self.options.beta, totals.sequences
        )

        predicted_right = (log_ratios.detach() * batch.mask).sum(dim=1) > 0
        count = batch.mask.any(dim=1).sum()
        return loss, {"accuracy": ((predicted_right == batch.right).sum(), count)}


ALGORITHM = PRIME
