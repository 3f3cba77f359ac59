"""A table and a scikit-learn model: does it read the tumour, or the clinic that the patient was sent to?"""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import firstcue as fc

rng = np.random.default_rng(0)
tumours = load_breast_cancer(as_frame=True).frame.rename(columns={"target": "label"})  # 569 rows
weak = ["mean texture", "mean smoothness", "mean compactness", "mean symmetry", "texture error", "smoothness error"]


def with_clinic(rows, agree):
    """The measurements and a column with the clinic, which goes with the diagnosis in a fraction of the rows."""
    rows = rows[[*weak, "label"]].copy()
    rows["clinic"] = np.where(rng.random(len(rows)) < agree, rows["label"], 1 - rows["label"])
    return rows


tumours = tumours.sample(frac=1, random_state=0)
train, held_out = with_clinic(tumours[:300], agree=0.95), with_clinic(tumours[300:], agree=0.5)
model = make_pipeline(StandardScaler(), LogisticRegression()).fit(train.drop(columns="label"), train["label"])

# the clinic is a column that the model reads, so the audit can set it and keep the rest of the row
report = fc.audit(model, train, attribute="clinic", held_out=held_out, remedies=("erase",), effort="fast")
print(report.summary())
