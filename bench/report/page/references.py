"""What a page cites: the methods' papers, and what each metric is known to miss."""

from bench.config.presets import config_folder

MISSES = {
    "fd": ("Fréchet distance", (
        "compares two Gaussians of features: it sees most kinds of damage, but not training images "
        "given back, and not what its network was not trained to tell. Its value falls with the "
        "number of samples; compare only equal numbers."
    )),
    "fid": ("Fréchet Inception distance", (
        "compares two Gaussians of ImageNet features: of other images it may miss what matters "
        "there, and it does not see training images given back. Its value falls with the number "
        "of samples; compare only equal numbers."
    )),
    "kd": ("Kernel distance", (
        "is unbiased and may be negative near zero; it has the blind spots of its features."
    )),
    "kid": ("Kernel Inception distance", (
        "is unbiased and may be negative near zero; it has the blind spots of ImageNet features."
    )),
    "is": ("Inception Score", (
        "never looks at real images: it rewards sharp and varied classes, and one image per class "
        "has a perfect score."
    )),
    "precision": ("Precision", "can reward blur, and one good image given many times."),
    "recall": ("Recall", "is moved by outliers, and says nothing of how good the images are."),
    "density": ("Density", "can reward blur, and may lie above 1."),
    "coverage": ("Coverage", "saturates near 1 for good models."),
    "accuracy": ("Accuracy", (
        "asks whether a classifier sees the class that was asked for: one image per class is "
        "enough for 1."
    )),
    "cas": ("Classification accuracy score", (
        "trains a classifier on samples alone: it sees lost variety, and needs labels."
    )),
    "fdc": ("Class-wise Fréchet distance", (
        "has few samples in each class, so that its value is far above the one of all."
    )),
    "violation": ("Martingale violation", (
        "is zero for a denoiser that is constant: read it beside the quality."
    )),
    "score": ("Score error", "is known only where the density is, and weighs all levels of noise."),
    "sw2": ("Sliced Wasserstein distance", "is above zero for few points of the true density."),
    "modes": ("Share of modes found", "says nothing of how much of the mass lies in each."),
}  # fmt: skip
"""By family: its name, and what a reader must know before trusting it."""


def bibtex(methods: list[str]) -> str:
    """Return the papers of these methods, from ``configs/citations``; plug-ins have none there."""
    places = [config_folder() / "citations" / f"{method}.bib" for method in dict.fromkeys(methods)]
    return "\n\n".join(place.read_text("utf-8").strip() for place in places if place.exists())
