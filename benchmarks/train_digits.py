"""Train the network of ``numbadense demo`` and write it, with the images held out from its training.

The data are scikit-learn's 1797 handwritten digits of 8x8 pixels.  The network is the lesson's: 64-32-10, a sigmoid
everywhere, each of the ten outputs answering "is it this digit?".  scikit-learn is needed here and nowhere else.

Run with ``python benchmarks/train_digits.py`` where numbadense and scikit-learn are installed.
"""

import argparse
from pathlib import Path

import numpy as np
import safetensors.numpy
import sklearn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import numbadense as nd

SEED = 0
HELD_OUT = 450
HIDDEN = 32
ALPHA = 0.1  # the best of 0.01, 0.1, 0.3 and 1 in 5-fold cross-validation of the training images: 97.8 %
DATA = Path(__file__).parents[1] / "numbadense" / "data"
SOURCE = (
    "E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998, "
    "doi:10.24432/C50P49, CC BY 4.0; the 1797 images that scikit-learn's load_digits has"
)


def accuracy(outputs, labels):
    return float((outputs.argmax(axis=1) == labels).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, default=DATA, help="the folder to write to (default: %(default)s)")
    folder = parser.parse_args().out

    digits = load_digits()
    images, labels = digits.data.astype(np.uint8), digits.target.astype(np.uint8)
    train_images, held_images, train_labels, held_labels = train_test_split(
        images, labels, test_size=HELD_OUT, stratify=labels, random_state=SEED
    )

    # One column per digit makes it ten yes-or-no questions, and so the output layer a sigmoid.
    questions = np.eye(10, dtype=int)[train_labels]
    classifier = MLPClassifier(
        (HIDDEN,), activation="logistic", solver="lbfgs", alpha=ALPHA, max_iter=2000, random_state=SEED
    ).fit(train_images / 16, questions)
    print(f"scikit-learn, float64: {accuracy(classifier.predict_proba(train_images / 16), train_labels):.2%} of")
    print(f"  {len(train_images)} training images after {classifier.n_iter_} iterations,")
    print(f"  {accuracy(classifier.predict_proba(held_images / 16), held_labels):.2%} of {HELD_OUT} held-out images")

    network = nd.Sequential(
        [
            nd.Dense(w.astype(np.float32), b.astype(np.float32), "sigmoid")
            for w, b in zip(classifier.coefs_, classifier.intercepts_, strict=True)
        ],
        metadata={
            "task": "which digit is on an 8x8 image, pixels scaled from 0..16 to 0..1",
            "trained on": f"{len(train_images)} images, with scikit-learn {sklearn.__version__}, seed {SEED}",
            "data": SOURCE,
        },
    )
    print(f"numbadense, float32: {accuracy(network(held_images / 16), held_labels):.2%} of the held-out images")

    folder.mkdir(parents=True, exist_ok=True)
    network.save(folder / "digits.safetensors")
    held_out = safetensors.numpy.save({"images": held_images, "labels": held_labels}, {"data": SOURCE})
    (folder / "digits_heldout.safetensors").write_bytes(held_out)
    for path in sorted(folder.glob("digits*.safetensors")):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
