"""What public names are not held to, each with its reason. An exempted check that passes fails the suite."""

# Names that are checked through others, or that are no part of a training step.
NAMES = {
    "Rule": "the protocol; every rule is a sample",
    "rules": "the module of the rules",
    "RuleOptimizer": "every rule is run through it",
    "optimizer_of": "makes the named classes; every rule's is checked",
    "BatchedTrainer": "every rule is run through it",
    "stack_modules": "takes modules; drivers_agree runs it",
    "matrix_groups": "takes a model, and answers with parameter groups",
}

# (sample, with * for any; check) -> why.
CHECKS = {
    # Losses.
    ("AdaptiveLDRLoss:remembers", "vmapped"): "its memory is written in place, and vmap has one for all",
    ("AdaptiveLDRLoss:remembers", "nan_is_seen_in_transforms"): "its memory is written in place: no vmap",
    ("comp_sum_bound:*", "gradcheck"): "found by bisection, to be read and not descended",
    ("comp_sum_bound:*", "keeps_dtype"): "answers in float64: a theorem's number, no part of a training step",
    ("smooth_adversarial_comp_sum", "gradcheck"): "its search moves with the inputs but is a constant in the gradient",
    ("smooth_adversarial_comp_sum:box", "gradcheck"): "its search moves with the inputs but is a constant in the gradient",
    ("smooth_adversarial_comp_sum", "agrees_*"): "its search starts at random numbers of the inputs' type",
    ("smooth_adversarial_comp_sum:box", "agrees_*"): "its search starts at random numbers of the inputs' type",
    ("smooth_adversarial_comp_sum*", "compiled"): "it differentiates inside",
    ("smooth_adversarial_comp_sum*", "vmapped"): "it differentiates inside, from a random start",
    ("smooth_adversarial_comp_sum*", "nan_is_seen_in_transforms"): "it differentiates inside: no vmap",
    ("soft_confusion*", "keeps_dtype"): "counts of 16-bit scores are float32: 16 bits would lose samples",
    # Update rules.
    ("AdaGradNorm", "split_into_groups"): "its norm is a group's: the split is part of the method",
    ("DiffGrad", "batched_is_bitwise_a_loop"): "torch's sigmoid rounds the last few entries of a tensor otherwise",
}
