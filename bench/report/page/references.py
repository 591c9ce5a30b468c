"""What a page cites: the methods' papers, and what each metric is known to miss."""

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

PAPERS = {
    "ye2023score": """@article{ye2023score,
  title   = {Score Mismatching for Generative Modeling},
  author  = {Ye, Senmao and Liu, Fei},
  journal = {arXiv preprint arXiv:2309.11043},
  year    = {2023}
}""",
    "chao2022denoising": """@inproceedings{chao2022denoising,
  title     = {Denoising Likelihood Score Matching for Conditional Score-based Data Generation},
  author    = {Chao, Chen-Hao and Sun, Wei-Fang and Cheng, Bo-Wun and Lo, Yi-Chen and
               Chang, Chia-Che and Liu, Yu-Lun and Chang, Yu-Lin and Chen, Chia-Ping and
               Lee, Chun-Yi},
  booktitle = {International Conference on Learning Representations},
  year      = {2022}
}""",
    "daras2023consistent": """@inproceedings{daras2023consistent,
  title     = {Consistent Diffusion Models: Mitigating Sampling Drift by Learning to be
               Consistent},
  author    = {Daras, Giannis and Dagan, Yuval and Dimakis, Alexandros G. and
               Daskalakis, Constantinos},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2023}
}""",
    "song2021score": """@inproceedings{song2021score,
  title     = {Score-Based Generative Modeling through Stochastic Differential Equations},
  author    = {Song, Yang and Sohl-Dickstein, Jascha and Kingma, Diederik P. and Kumar, Abhishek and
               Ermon, Stefano and Poole, Ben},
  booktitle = {International Conference on Learning Representations},
  year      = {2021}
}""",
    "karras2022elucidating": """@inproceedings{karras2022elucidating,
  title     = {Elucidating the Design Space of Diffusion-Based Generative Models},
  author    = {Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2022}
}""",
}
CITES = {
    "smm": ["ye2023score"],
    "dlsm": ["chao2022denoising"],
    "cdm": ["daras2023consistent"],
    "sde": ["karras2022elucidating", "song2021score"],
}
"""The papers of each method; a plug-in's are its author's to cite."""


def bibtex(methods: list[str]) -> str:
    """Return the papers of these methods, each once."""
    keys = dict.fromkeys(key for method in methods for key in CITES.get(method, ()))
    return "\n\n".join(PAPERS[key] for key in keys)
