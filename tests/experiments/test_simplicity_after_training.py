"""The experiments on condensation and explanations run, and claim what their rows say."""

from firstcue.experiments.simplicity import condensation, post_hoc
from firstcue.sweeps import Trial


def test_condensation_reports_accuracy_and_bits_of_a_set():
    small = {"core": "digits", "size": 8, "train_rows": 200, "test_rows": 60, "networks": 1, "evaluation_steps": 3}
    small |= {"real_batch": 8, "density": "dct", "steps": 2, "per_class": 1, "lam": 100, "loss": "match"}
    (row,) = condensation.run(Trial("simplicity/condensation", small, 0))
    assert 0 <= row["accuracy"] <= 1 and row["total_bits"] > 0 and condensation.figures([{**row, **small, "seed": 0}])


def test_condensation_holds_only_if_accuracy_stays_and_bits_fall():
    rows = [
        {"core": "digits", "per_class": 1, "lam": lam, "seed": s, "accuracy": a + 0.001 * s, "total_bits": b + s}
        for lam, a, b in ((0, 0.8, 100.0), (100, 0.5, 70.0))
        for s in range(3)
    ]
    rows = [{**row, "loss": "match"} for row in rows] + [{**row, "loss": "lookahead", "accuracy": 1.0} for row in rows]
    assert [c.verdict for c in condensation.claims(rows)] == ["does not hold", "holds"]


def test_other_losses_of_condensation_run_where_images_are_fewest_and_bits_are_free():
    settings = [trial.settings for trial in condensation.trials("small", 1)]
    others = [s for s in settings if s["loss"] != "match"]
    assert [(s["core"], s["loss"], s["per_class"], s["lam"]) for s in others] == [
        (core, loss, 1, 0) for core in ("digits", "garments") for loss in ("grad_dot", "lookahead")
    ]


def test_post_hoc_rows_carry_every_control():
    small = {"core": "digits", "size": 8, "train_rows": 100, "test_rows": 20, "epochs": 1, "explained": 2, "steps": 2}
    small |= {"density": "dct", "channels": 4, "kl_budget": 0.1}
    (row,) = post_hoc.run(Trial("simplicity/post-hoc", small, 0))
    assert row["largest_kl"] <= 0.1 + 1e-5 and {"no_bits_kl", "no_task_kl", "random_weights_correlation"} <= set(row)
    rows = [{**row, **small, "seed": s} for s in range(2)]
    assert len(post_hoc.claims(rows)) == 4 and post_hoc.figures(rows)
