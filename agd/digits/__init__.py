"""The embedded data (scikit-learn's handwritten digits) and the small base models trained on them."""
