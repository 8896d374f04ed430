"""The embedded data and models: scikit-learn's handwritten digits, and small base models trained on them.

Its stages are agd.digits.prepare_digits, train_classifier and train_base. Only rules and tests import this folder.
"""
