"""firstcue: what a network learned first, what it leans on, and how to repair it.

Every public name is listed below under the question it answers, beside the module that holds it.
Modules are loaded when a name is first used, so that `import firstcue` costs no torch import.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    # the things every measure speaks of
    "Batch": "batch",
    "Moments": "moments",
    "jackknife": "moments",
    "ledoit_wolf": "shrinkage",
    "oas": "shrinkage",
    "random_matrix_shrinkage": "shrinkage",
    # which statistics carry a concept, and how to remove them
    "leace": "erasure.leace",
    "leace_continuous": "erasure.leace",
    "oracle_leace": "erasure.oracle",
    "qleace": "erasure.qleace",
    "alf_qleace": "erasure.alf_qleace",
    "class_editor": "erasure.editing",
    "free_form_leace": "erasure.free_form",
    "gradient_erasure": "erasure.gradient",
    "order_of_statistics": "erasure.statistics_order",
    "quantile_tables": "erasure.marginal",
    "marginal_eraser": "erasure.marginal",
    "fold": "erasure.fold",
    "injection": "erasure.injection",
    "save": "erasure.storage",
    "load": "erasure.storage",
    "linear_probe": "probes",
    "quadratic_probe": "probes",
    "strong_probe": "probes",
    # looking inside a model
    "layer_moments": "layers",
    "activations": "layers",
    "find_head": "layers",
    "erased": "inside",
    "scrub": "scrubbing",
    # did training transform the features, and does the head use them
    "measure_richness": "richness.measuring",
    "low_rank_measure": "richness.low_rank",
    "low_rank_of_moments": "richness.low_rank",
    "balanced_weights": "richness.low_rank",
    "feature_spectrum": "richness.spectrum",
    "neural_collapse": "richness.collapse",
    "measure_change": "richness.change",
    "cka": "richness.similarity",
    "label_alignment": "richness.similarity",
    "layer_similarity": "richness.similarity",
    "effective_ranks": "richness.ranks",
    "intrinsic_dimension": "richness.ranks",
    "weight_movement": "richness.movement",
    "activation_change": "richness.movement",
    "spectral_complexity": "richness.movement",
    "tangent_kernel": "richness.tangent",
    "tangent_change": "richness.tangent",
    "tangent_lambda_max": "richness.curvature",
    "linearisation_error": "richness.tangent",
    "kernel_distance": "richness.tangent",
    "kernel_velocity": "richness.tangent",
    "RichnessMonitor": "richness.monitor",
    "richness_measure": "richness.monitor",
    "richness_profile": "richness.profile",
    "centred_output": "richness.recipes",
    "scaled_loss": "richness.recipes",
    "scaled_targets": "richness.recipes",
    "scaled_initialisation": "richness.recipes",
    "frozen_features": "richness.recipes",
    "lazy_twin": "richness.recipes",
    "safe_learning_rate": "richness.recipes",
    # which group is served worst, and through which cue
    "dominoes": "spurious.compose",
    "overlay": "spurious.compose",
    "confounded": "spurious.resampling",
    "column_attribute": "spurious.resampling",
    "insert_tokens": "spurious.tokens",
    "embedded_with_tokens": "spurious.tokens",
    "group_metrics": "spurious.metrics",
    "decode": "spurious.decode",
    "association": "spurious.association",
    "accuracy_gap": "spurious.reliance",
    "edit_reliance": "spurious.reliance",
    "discover": "auditing.discovering",
    "slice_line": "spurious.slice_line",
    "domino_slices": "spurious.slices",
    "spotlight": "spurious.slices",
    "candidate_direction": "spurious.directions",
    # what is learned first, where everything is known: signs with a shortcut
    "parity": "spurious.functions",
    "staircase": "spurious.functions",
    "majority": "spurious.functions",
    "truth_table": "spurious.functions",
    "polynomial_threshold": "spurious.functions",
    "merged_staircase": "spurious.functions",
    "boolean_function": "spurious.functions",
    "boolean_data": "spurious.boolean",
    "boolean_stream": "spurious.boolean",
    "boolean_layout": "spurious.boolean",
    "train_boolean": "spurious.batched",
    "walsh_hadamard": "spurious.fourier",
    "fourier_gap": "spurious.confounding",
    "predicted_slowdown": "spurious.slowdown",
    "subnetworks": "spurious.subnetworks",
    "subnetworks_by_selectivity": "spurious.subnetworks",
    # do environments agree on what to learn
    "environment_gradients": "agreement.gradients",
    "example_agreement": "agreement.examples",
    "example_sums": "agreement.examples",
    "mean_gradient": "agreement.rules",
    "and_mask": "agreement.rules",
    "geometric_mean": "agreement.rules",
    "sand_mask": "agreement.rules",
    "apply_rule": "agreement.apply",
    "TemporalAndMask": "agreement.temporal",
    "irm": "agreement.penalties",
    "vrex": "agreement.penalties",
    "iga": "agreement.penalties",
    "fishr": "agreement.penalties",
    "spectral_decoupling": "agreement.penalties",
    "measure_agreement": "agreement.coherence",
    "feature_agreement": "agreement.features",
    "example_coherence": "agreement.noise",
    "noise_scale": "agreement.noise",
    "agreement_measure": "agreement.measures",
    "coherence_measure": "agreement.measures",
    "agreement_warnings": "agreement.measures",
    "rank_columns": "agreement.environments",
    "random_environments": "agreement.environments",
    "examples_as_environments": "agreement.environments",
    "error_environments": "agreement.environments",
    "gradient_clusters": "agreement.environments",
    "inconsistency": "agreement.consistency",
    "losses_of": "agreement.consistency",
    "quadratic_inconsistency": "agreement.quadratic",
    "determinant_bound": "agreement.quadratic",
    # how simple an input is, and what a decision needs of it
    "bits": "simplicity.density",
    "from_log_prob": "simplicity.adapters",
    "Uniform": "simplicity.density",
    "Independent": "simplicity.independent",
    "Mixture": "simplicity.mixture",
    "DCTLaplace": "simplicity.dct",
    "Codec": "simplicity.codecs",
    "PixelAR": "simplicity.autoregressive",
    "ImageGlow": "simplicity.glow",
    "fit_density": "simplicity.density_fitting",
    "release_gate": "simplicity.gates",
    "load_density": "simplicity.loading",
    "save_density": "simplicity.loading",
    "density_card": "simplicity.loading",
    "distract": "simplicity.distractors",
    "GaussianVectors": "simplicity.vectors",
    "inspect_bits": "simplicity.inspecting",
    "bits_saved_map": "simplicity.saved",
    "Simplifier": "simplicity.simplify",
    "simplified_training": "simplicity.simplify",
    "explain_simplify": "simplicity.explain",
    "SimplifyResult": "simplicity.explained",
    "condense": "simplicity.condense",
    "Condensed": "simplicity.condense",
    "evaluate_condensed": "simplicity.condense",
    # how fast something is learned
    "description_length": "code_length.measuring",
    "chunk_sizes": "code_length.sizes",
    # over time, and repair
    "train": "training.loop",
    "train_with": "training.searching",
    "group_dro": "training.weighting",
    "cvar_dro": "training.weighting",
    "group_weights": "training.weighting",
    "class_weights": "training.weighting",
    "effective_number_weights": "training.weighting",
    "focal": "training.weighting",
    "jtt": "training.references",
    "cnc": "training.references",
    "eiil": "training.references",
    "spare": "training.references",
    "spare_weights": "training.references",
    "george": "training.references",
    "lff": "training.failure",
    "coral": "training.features",
    "mmd": "training.features",
    "mixup": "training.mixing",
    "lisa": "training.mixing",
    "Recorder": "training.recorder",
    "log_spaced": "training.recorder",
    "retrain_last_layer": "training.retrain",
    # many runs, and rows in many files
    "Trial": "sweeps.trial",
    "sweep": "sweeps.running",
    "shard_moments": "shards.mapping",
    "audit_shards": "auditing.sharded",
    # for people
    "Finding": "finding",
    "Report": "finding",
    "audit": "auditing.model",
    "audit_embeddings": "auditing.embeddings",
    "fix": "auditing.fixing",
}

_MODULES: dict[str, str] = {"sklearn": "sklearn", "surrogates": "erasure.surrogates"}
"""Public names that are whole modules: `fc.sklearn.Leace`."""

__all__ = ["__version__", *_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"firstcue.{_MODULES[name]}")
    if name not in _HOME:
        known = ", ".join(sorted([*_HOME, *_MODULES]))
        raise AttributeError(f"module 'firstcue' has no attribute {name!r}; public names: {known}")
    value = getattr(import_module(f"firstcue.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
