"""What is known of each data set before any of it is read."""

from dataclasses import dataclass

ROOT_VARIABLE = "SCOREBENCH_DATA"
"""Environment variable naming a folder in which data sets lie, each as torchvision lays it out."""


@dataclass(frozen=True)
class Known:
    """The published facts of a data set: counts, square size in pixels, channels, classes.

    Points have one pixel and a channel per coordinate.
    """

    train: int
    test: int
    size: int
    channels: int
    classes: tuple[str, ...]
    source: str

    @property
    def is_points(self) -> bool:
        """Whether these are points of a mixture rather than images."""
        return self.size == 1

    @property
    def counts(self) -> str:
        """How many there are to train on, and how many are held out."""
        return f"{self.train} + {self.test}"

    def __str__(self) -> str:
        size = f"{self.channels}-D" if self.is_points else f"{self.size}x{self.size}"
        kinds = f"{self.channels} channel(s), {len(self.classes)} classes"
        return f"{self.counts} images, {size}, {kinds}; from {self.source}"


_DIGITS = tuple("0123456789")
_CLOTHES = "T-shirt/top,trouser,pullover,dress,coat,sandal,shirt,sneaker,bag,ankle boot"
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
# The 100 fine names in the order of their indices, which is alphabetical.
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
    mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
    porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
_FETCHED = f"--data PATH, ${ROOT_VARIABLE}, or torchvision's download"
_FETCHED_OR_DEBIAN = _FETCHED.replace(", or", ", Debian's dataset-fashion-mnist, or")
_DRAWN = "drawn from a Gaussian mixture in closed form"

KNOWN: dict[str, Known] = {
    "digits": Known(1297, 500, 8, 1, _DIGITS, "embedded in scikit-learn"),
    "mnist": Known(60_000, 10_000, 28, 1, _DIGITS, _FETCHED),
    "fashion-mnist": Known(60_000, 10_000, 28, 1, tuple(_CLOTHES.split(",")), _FETCHED_OR_DEBIAN),
    "cifar10": Known(50_000, 10_000, 32, 3, tuple(_CIFAR10.split()), _FETCHED),
    "cifar100": Known(50_000, 10_000, 32, 3, tuple(_CIFAR100.split()), _FETCHED),
    "gmm2d": Known(20_000, 10_000, 1, 2, ("0", "1", "2"), _DRAWN),
    "moons": Known(20_000, 10_000, 1, 2, ("upper", "lower"), _DRAWN),
}
