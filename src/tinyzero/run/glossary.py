"""What every key of a run's records means, with its unit."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

GLOSSARY: dict[str, str] = {
    # Where a record stands
    "step": "Batch trained on, counted from 0; of evaluations and of dev and test rollouts, the batches before it.",
    "split": "Split the problems come from: train, dev or test.",
    "version": "Policy version that made the completions: the number of times the weights were published.",
    "samples": "Completions trained on since the run began.",
    "samples/generated": "Completions sampled for training since the run began, dropped groups included.",
    "tokens": "Completion tokens trained on since the run began.",
    # What the policy earned
    "reward": "Mean reward of the step's completions.",
    "reward/*": "Mean of the named part of the reward over the step's completions.",
    "graded": "Share of the completions whose reward is neither right nor wrong, such as a reward model's.",
    "accuracy": "Share of the step's completions whose answer is right.",
    "reward_errors": "Answers of this step whose grader raised or took too long; they count as wrong.",
    "grading/raised": "Answers of this step whose grader raised. They earned 0 and count as wrong.",
    "grading/timeout": "Answers of this step whose grader took too long. They earned 0 and count as wrong.",
    "grading/ungraded": "Answers of this step that could not be graded, after retries. They were left out.",
    "malformed": "Share of completions that ended by themselves without an answer that can be judged.",
    "truncated": "Share of completions cut off at the token limit.",
    "response_length": "Mean tokens a completion, its stop token included.",
    "response_length/right": "Mean tokens of the completions whose answer is right.",
    "response_length/wrong": "Mean tokens of the completions whose answer is wrong.",
    "flat_groups": "Share of groups whose completions all earned the same: no lesson under a group baseline.",
    "refill_rounds": "Extra rounds of sampling it took to fill the batch.",
    "dropped_groups": "Groups sampled for this step and not kept by the algorithm.",
    "skipped_prompts": "Problems left out because prompt and answer do not fit into the model's context.",
    "refused": "One where the algorithm kept no group at all, so that nothing was learned in this step, else zero.",
    # What the update did
    "loss": "The scalar that the policy minimised, averaged over the step's updates.",
    "entropy": "Mean entropy in nats of the next-token distribution, over tokens with a gradient: no flat groups.",
    "kl": "Mean estimated KL divergence from the reference model in nats, over tokens with a gradient.",
    "clip_fraction": "Share of the tokens with a gradient whose probability ratio was clipped.",
    "grad_norm": "L2 norm of the policy's gradient before clipping.",
    "learning_rate": "The policy's learning rate in this step.",
    "skipped": "Updates of this step that were left out because the gradient was not finite.",
    "correction": "Mean weight of trained tokens for a sampler that differs from the learner.",
    "mismatch": "Mean distance, in nats, of a trained token's log-probability as the sampler saw it from the learner's "
    "own before the update; rows that waited for this batch left out.",
    "prm/*": "The named figure of the process reward model, averaged over the step's updates.",
    "prm/accuracy": "Share of trained responses whose summed process reward has the sign of right or wrong.",
    "value/*": "The named figure of the critic, averaged over the step's updates.",
    # What it cost
    "tokens/generated": "Completion tokens sampled in this step, dropped groups included.",
    "tokens/trained": "Completion tokens that carried loss in this step.",
    "time/step": "Seconds of wall time of the whole step, without evaluating and saving.",
    "time/elapsed": "Seconds of wall time since the run began, evaluations included, pauses not.",
    "time/cpu": "Seconds of CPU time of all threads since the run began.",
    "time/gpu_hours": "Hours of the GPU since the run began.",
    "time/gpu_hours_total": "Hours of the GPU that the run will have taken at its end, at the pace so far.",
    "time/flops_total": "What flops will be at the run's end, at the pace so far.",
    "time/dollars": "What the run has cost, at run.price an hour of time/elapsed.",
    "time/dollars_total": "What the run will have cost at its end, at the pace so far.",
    "time/utilisation": "The step's FLOPs over what the GPU's data sheet allows in time/step, in the weights' type.",
    "flops": "Floating-point operations since the run began, evaluations aside, by the formulas of `tinyzero plan`: 2 "
    "a weight and token read, 6 learned from. What is computed a second time to save memory is not counted.",
    "time/*": "Seconds of wall time spent in the named part.",
    "memory/*": "Memory held by the named part at its peak, in bytes.",
    "memory/gpu_peak": "The most memory, in bytes, that PyTorch had allocated on the GPU since the process began; "
    "vLLM's is not in it.",
    # Rollouts
    "problem": "The problem's name.",
    "prompt": "The text, or the chat messages, that posed it.",
    "fields": "What the problem is made of.",
    "group": "Number of the draw: the rollouts of one draw of a problem share it.",
    "text": "The completion, up to and including its stop string.",
    "finish_reason": "How it ended: stop, length (cut at the token limit) or abort.",
    "parts": "The parts of its reward by name.",
    "right": "In a rollout: whether its answer is right; null for a graded one, which is neither. In an evaluation: "
    "the number of right completions of each problem, out of k, in order.",
    "failure": "Why its answer could not be graded: raised or timeout. It earned 0 and counts as wrong.",
    # Evaluations
    "n": "Problems evaluated.",
    "k": "Completions sampled for each problem.",
    "temperature": "Temperature the completions were sampled at.",
    "max_tokens": "Limit on new tokens per completion.",
    "problems": "Fingerprint of the evaluated problems: the first 16 hex digits of the SHA-256 of their ids, in order, "
    "joined by newlines. Equal fingerprints mean the same problems.",
    "clusters": "Cluster of each problem, in order: the number of its key, counted by first appearance.",
    "pass@*": "Chance that at least one of so many completions is right, estimated without bias.",
    "pass@*/*=*": "The same over the problems that the task describes so.",
    "greedy": "Share of problems answered rightly by the single most likely completion.",
    "greedy/*=*": "The same over the problems that the task describes so.",
    "pass@*/low": "Lower end of the 95 % confidence interval; problems that share a key are one cluster.",
    "pass@*/high": "Upper end of the 95 % confidence interval; problems that share a key are one cluster.",
    "greedy*/low": "Lower end of the 95 % confidence interval; problems that share a key are one cluster.",
    "greedy*/high": "Upper end of the 95 % confidence interval; problems that share a key are one cluster.",
}
"""What each key means and its unit, save `behaviour/*`, which the glossary of a task defines.

`*` stands for any text. The entry that spells out most of a key defines it.
"""


def define(key: str, more: Mapping[str, str] | None = None) -> str | None:
    """What `key` means, or None for a key that the glossary lacks.

    `more` are the entries of a task, which go before those of the glossary that fit equally well.
    """
    entries = {**GLOSSARY, **(more or {})}
    patterns = [pattern for pattern in entries if fnmatchcase(key, pattern)]
    if not patterns:
        return None
    return entries[max(patterns, key=lambda pattern: len(pattern.replace("*", "")))]
