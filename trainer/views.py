"""Several views of a clip's pictures at test time, whose probabilities are averaged.

The networks read 30 s, and no more are stored: there are no other stretches of time to look at, and sound has one view.
Pictures have the whole frame, its mirror image, and crops of it, such as training crops them (``trainer.augment``).
"""

from collections.abc import Iterator
from itertools import product

from torchvision.transforms.v2 import functional as tv

from trainer.models.inputs import SIZE_PX
from trainer.readers import Batch

CROP_PX = 112  # of 128: the centre and the corners
_LAST = SIZE_PX - CROP_PX
_PLACES = ((_LAST // 2, _LAST // 2), *product((0, _LAST), repeat=2))
MAX_VIEWS = 2 * (1 + len(_PLACES))


def views(batch: Batch, num_views: int) -> Iterator[Batch]:
    """Yield a batch seen in so many ways, at most ``MAX_VIEWS``.

    The first is the batch as it is, the second its mirror image; then come crops, enlarged again, and their mirror
    images: the centre, and the four corners. A batch without pictures is seen once.
    """
    yield batch
    for number in range(1, num_views if "frames" in batch else 1):
        seen = batch["frames"].movedim(-1, 2)
        if number >= 2:
            place = _PLACES[number // 2 - 1]
            seen = tv.resized_crop(seen, *place, CROP_PX, CROP_PX, [SIZE_PX, SIZE_PX], antialias=True)
        if number % 2:
            seen = tv.horizontal_flip(seen)
        yield batch | {"frames": seen.movedim(2, -1)}
