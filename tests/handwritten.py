"""Pictures that ship with scikit-learn."""


def digits():
    """(1797, 64) float64: imported only where they are asked for, as that takes a second."""
    from sklearn.datasets import load_digits

    return load_digits().data
