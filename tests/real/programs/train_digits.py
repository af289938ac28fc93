"""Fits the digits model that MLServer serves, with the libraries that will load it.

Run by the real server's own Python: ``train_digits.py MODEL.joblib``.
"""

import sys

import joblib
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

images, labels = load_digits(return_X_y=True)
model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(images, labels)
joblib.dump(model, sys.argv[1])
