"""What public names are not held to, each with its reason. An exempted check that passes fails the suite."""

# Names that are checked through others, or that are no part of a training step.
NAMES = {
    "f_divergence": "looks divergences up by name",
    "WorstCase": "the record that worst cases answer with",
    "FDivergence.from_terms": "FDivergence.*:from_terms is made by it",
    "FDivergence.reversed": "FDivergence.*:reversed is made by it",
    "FDivergence.terms": "takes what its callers have checked and upcast",
    "FDivergence.climb": "a step of the search for worst cases",
    "SoftConfusion": "the record that soft_confusion answers with",
    "loss_function": "declares a loss",
    "module_of": "derives a module; each is checked",
    "spec_of": "reads a loss's declaration",
    "LossModule": "the base of the derived modules",
    "LossSpec": "a loss's declaration",
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
    # Divergences.
    ("FDivergence.score_weight*", "gradcheck"): "a weight of sampled scores, constant in the gradient by design",
    ("FDivergence.estimate:fitted", "gradcheck"): "the fitted multiple is a constant in the gradient",
    # Losses.
    ("AdaptiveLDRLoss:remembers", "vmapped"): "its memory is written in place, and vmap has one for all",
    ("AdaptiveLDRLoss:remembers", "nan_is_seen_in_transforms"): "its memory is written in place: no vmap",
    ("comp_sum_bound*", "gradcheck"): "found by bisection, to be read and not descended",
    ("comp_sum_bound*", "keeps_dtype"): "answers in float64: a theorem's number, no part of a training step",
    ("smooth_adversarial_comp_sum", "gradcheck"): "its search is a constant in the gradient",
    ("smooth_adversarial_comp_sum:box", "gradcheck"): "its search is a constant in the gradient",
    ("smooth_adversarial_comp_sum", "agrees_*"): "its search starts at random numbers of the inputs' type",
    ("smooth_adversarial_comp_sum:box", "agrees_*"): "its search starts at random numbers of the inputs' type",
    ("smooth_adversarial_comp_sum*", "compiled"): "it differentiates inside",
    ("smooth_adversarial_comp_sum*", "vmapped"): "it differentiates inside, from a random start",
    ("smooth_adversarial_comp_sum*", "nan_is_seen_in_transforms"): "it differentiates inside: no vmap",
    ("soft_confusion*", "keeps_dtype"): "counts of 16-bit scores are float32: 16 bits would lose samples",
    # Update rules and schedules.
    ("cosine_decay*", "agrees_bfloat16"): "a step is a counter: bfloat16 does not count past 256",
    ("linear_decay:warm", "agrees_float16"): "a step is a counter: float16 does not count past 2048",
    ("AdaGradNorm", "split_into_groups"): "its norm is a group's: the split is part of the method",
    ("DiffGrad", "batched_is_bitwise_a_loop"): "torch's sigmoid rounds the last few entries of a tensor otherwise",
}

# (sample, check) -> why it would take too long. These are skipped, not run and expected to fail.
TOO_LONG = {
    ("FDivergence.robust_expectation*", "compiled"): "a search within a search unrolls into one graph",
    ("FDivergence.worst_case:sum", "vmapped"): "a search within a search cannot end early where values are not seen",
    ("FDivergence.worst_case:sum", "nan_is_seen_in_transforms"): "the same search within a search",
}
