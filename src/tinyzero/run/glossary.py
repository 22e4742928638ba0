"""What every key of a run's records means, with its unit."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

GLOSSARY: dict[str, str] = {
    # Where a record belongs
    "step": (
        "In metrics.jsonl and train rollouts, the number of the step, counted from 0. In "
        "eval.jsonl and rollouts of dev and test, the number of steps taken before, so 0 is the "
        "untrained model. The console counts from 1."
    ),
    "split": "Split the problems come from: train, dev or test.",
    "version": (
        "Version of the policy that wrote the completions: how often its weights were updated."
    ),
    "samples": "Completions trained on since the run began.",
    "samples/generated": (
        "Completions sampled for training since the run began, dropped groups included."
    ),
    "tokens": "Completion tokens trained on since the run began.",
    # What the policy earned
    "reward": "Mean reward of the completions.",
    "reward/*": "Mean of the named part of the reward.",
    "graded": (
        "Share of the completions whose reward is neither right nor wrong, such as a reward "
        "model's."
    ),
    "accuracy": "Share of the completions whose answer is right.",
    "reward_errors": "Answers whose grader raised an error or took too long; they count as wrong.",
    "grading/raised": "Answers whose grader raised an error. They earned 0 and count as wrong.",
    "grading/timeout": "Answers whose grader took too long. They earned 0 and count as wrong.",
    "grading/ungraded": "Answers that could not be graded, after retries. They were left out.",
    "malformed": (
        "Share of completions that ended by themselves without an answer that can be judged. "
        "Only for tasks whose reward has a part `format`."
    ),
    "truncated": "Share of completions cut off at the token limit.",
    "response_length": "Mean tokens per completion, its stop token included.",
    "response_length/right": "Mean tokens of the completions whose answer is right.",
    "response_length/wrong": "Mean tokens of the completions whose answer is wrong.",
    "turns": (
        "Mean number of turns of the model per completion, for tasks with several turns. Turns "
        "between which nothing was said count as one."
    ),
    "environment_tokens": (
        "Mean tokens per completion that the environment or a tool wrote. The model reads them; "
        "they are not trained on and are in no other count of tokens."
    ),
    "flat_groups": (
        "Share of groups whose completions all earned the same: zero advantage under a group "
        "baseline."
    ),
    "refill_rounds": "Extra rounds of sampling that were needed to fill the batch.",
    "dropped_groups": "Groups that were sampled for this step but not kept by the algorithm.",
    "skipped_prompts": (
        "Problems left out because prompt and answer do not fit into the model's context."
    ),
    # Mixtures and curricula
    "reward/task=*": "Mean reward of the completions for the problems of one task of a mixture.",
    "accuracy/task=*": (
        "Share of the completions for the problems of one task of a mixture that are right."
    ),
    "accuracy/task=*/low": (
        "Lower end of the 95 % confidence interval; problems that share a key are one cluster."
    ),
    "accuracy/task=*/high": (
        "Upper end of the 95 % confidence interval; problems that share a key are one cluster."
    ),
    "truncated/task=*": (
        "Share of completions cut off at the token limit, for one task of a mixture."
    ),
    "response_length/task=*": "Mean tokens per completion, for one task of a mixture.",
    "groups/task=*": "Groups of one task of a mixture: in training, those that were trained on.",
    "dropped_groups/task=*": (
        "Groups of one task that were sampled for this step but not kept by the algorithm."
    ),
    "refill_rounds/task=*": (
        "Extra rounds of sampling that one task of a mixture needed to fill its share of the batch."
    ),
    "curriculum/level": (
        "Level of the problems drawn in this step; between two levels, their mean in proportion to "
        "the problems of each."
    ),
    "curriculum/level/task=*": "The same, for one task of a mixture.",
    "curriculum/accuracy": (
        "Share of right answers among all of this step, dropped groups included, which moves the "
        "level. An answer that was cut off counts as wrong."
    ),
    "curriculum/accuracy/task=*": "The same, for one task of a mixture.",
    "refused": (
        "Is 1 if the algorithm kept no group, so nothing was learned in this step, and otherwise 0."
    ),
    # What the update did
    "loss": "The scalar that the policy minimised, averaged over the step's updates.",
    "entropy": (
        "Mean entropy in nats of the next-token distribution, over tokens with a gradient, so "
        "without flat groups."
    ),
    "kl": (
        "Mean estimated KL divergence from the reference model in nats, over tokens with a "
        "gradient."
    ),
    "clip_fraction": "Share of the tokens with a gradient whose probability ratio was clipped.",
    "grad_norm": "L2 norm of the policy's gradient before clipping.",
    "learning_rate": "The policy's learning rate in this step.",
    "skipped": "Updates of this step that were left out because the gradient was not finite.",
    "correction": (
        "Mean weight of trained tokens that corrects for a sampler that differs from the learner."
    ),
    "mismatch": (
        "Mean distance, in nats, between a trained token's log-probability in the sampler and in "
        "the learner before the update. Rows that waited for this batch are left out."
    ),
    "prm/*": "The named figure of the process reward model, averaged over the step's updates.",
    "prm/accuracy": (
        "Share of trained responses whose summed process reward has the sign of right or wrong."
    ),
    "value/*": "The named figure of the critic, averaged over the step's updates.",
    # What it cost
    "tokens/generated": "Completion tokens sampled in this step, dropped groups included.",
    "tokens/trained": "Completion tokens that carried loss in this step.",
    "time/step": "Seconds of wall time of the whole step, without evaluations and checkpoints.",
    "time/elapsed": "Seconds of wall time since the run began, with evaluations, without pauses.",
    "time/elapsed_total": (
        "What time/elapsed is expected to be at the end of the run. The estimate follows the "
        "trend of the last steps and includes the evaluations to come."
    ),
    "time/cpu": (
        "Seconds of CPU time of all threads since the run began, grading processes not included."
    ),
    "time/gpu_hours": "GPU-hours used since the run began.",
    "time/gpu_hours_total": "GPU-hours expected for the whole run, by time/elapsed_total.",
    "time/flops_total": (
        "What flops will be at the end if the remaining steps cost as much as those so far."
    ),
    "time/dollars": (
        "What the run has cost so far: run.price per hour of time/elapsed, and what a judge cost."
    ),
    "time/dollars_total": "What the whole run is expected to cost, by time/elapsed_total.",
    "time/utilisation": (
        "FLOPs of the step, divided by what the GPU's data sheet allows in time/step for the "
        "weights' type."
    ),
    "flops": (
        "Floating-point operations since the run began, without evaluations, by the formulas of "
        "`tinyzero plan`: 2 per weight and token read, 6 if it is learned from. Work that is done "
        "twice to save memory counts once."
    ),
    "time/*": "Seconds of wall time spent in the named part.",
    "memory/*": "Memory held by the named part at its peak, in bytes.",
    "memory/peak": "The most memory, in bytes, that a process of the run has held so far.",
    "sampler/graphs": (
        "Is 1 if the torch sampler on a GPU decodes with CUDA graphs, and 0 if capturing them "
        "failed, which is slower. Absent on a CPU."
    ),
    "sampler/attention": (
        "Is 1 if the torch sampler on a GPU decodes with flash attention, and 0 if it masks whole "
        "rooms, which is slower. Absent on a CPU."
    ),
    "memory/gpu_peak": (
        "The most memory, in bytes, that PyTorch had allocated on the GPU so far, in any process "
        "of the run. vLLM's memory is not included."
    ),
    # Rollouts
    "problem": "The problem's id.",
    "prompt": "The text, or the chat messages, that posed the problem.",
    "fields": "What the problem is made of.",
    "group": "Number of the group: rollouts of the same draw of a problem share it.",
    "text": (
        "The completion, up to and including its stop string, with what the environment wrote "
        "between the model's turns."
    ),
    "environment": (
        "What the environment wrote in `text`: pairs of the first character and the one after the "
        "last. Only for completions of several turns."
    ),
    "finish_reason": "How the completion ended: stop, length (cut at the token limit) or abort.",
    "parts": "The parts of the reward by name.",
    "right": (
        "In a rollout: whether its answer is right; null if it is neither. In "
        "an evaluation: the number of right completions of each problem, out of k, in order."
    ),
    "failure": (
        "Why the answer could not be graded: raised or timeout. It earned 0 and counts as wrong."
    ),
    # Evaluations
    "n": "Problems evaluated.",
    "k": "Completions sampled per problem.",
    "temperature": "Temperature that the completions were sampled at.",
    "max_tokens": "Limit on new tokens per completion.",
    "problems": (
        "Fingerprint of the evaluated problems: the first 16 hex digits of the SHA-256 of their "
        "ids, in order, joined by newlines. Equal fingerprints mean the same problems."
    ),
    "clusters": (
        "Cluster of each problem, in order: the number of its key, counted by first appearance."
    ),
    "pass@*": (
        "Probability that at least one of that many completions is right, estimated without bias."
    ),
    "pass@*/*=*": "The same, over only the problems with this label of the task.",
    "greedy": "Share of problems whose single most likely completion is right.",
    "greedy/*=*": "The same, over only the problems with this label of the task.",
    "pass@*/low": (
        "Lower end of the 95 % confidence interval; problems that share a key are one cluster."
    ),
    "pass@*/high": (
        "Upper end of the 95 % confidence interval; problems that share a key are one cluster."
    ),
    "greedy*/low": (
        "Lower end of the 95 % confidence interval; problems that share a key are one cluster."
    ),
    "greedy*/high": (
        "Upper end of the 95 % confidence interval; problems that share a key are one cluster."
    ),
}
"""What each key means and its unit, except `behaviour/*`, which a task's own glossary defines.

`*` stands for any text. If several entries match a key, the one that spells out most of it
defines it.
"""


def define(key: str, more: Mapping[str, str] | None = None) -> str | None:
    """What `key` means, or None if the glossary does not have it.

    `more` holds a task's own entries, which win over those of the glossary that match equally well.

    >>> define("reward/format")
    'Mean of the named part of the reward.'
    """
    entries = {**GLOSSARY, **(more or {})}
    patterns = [pattern for pattern in entries if fnmatchcase(key, pattern)]
    if not patterns:
        return None

    most_specific = max(patterns, key=lambda pattern: len(pattern.replace("*", "")))
    return entries[most_specific]
