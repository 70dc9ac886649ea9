"""Images for studies: scikit-learn's digits, a 3 x 32 x 32 set made from them, and the files of MNIST and CIFAR-10.

Pixels lie in [LOW, HIGH] = [-0.5, 0.5] everywhere. Nothing is downloaded: real files are read where the user points.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from symdisc.errors import BadInput

__all__ = ["HIGH", "LOW", "Images", "cifar10", "digits", "mnist", "patches", "read_folder"]

LOW, HIGH = -0.5, 0.5

# How strongly a digit stands out of its patch of a photograph. Tuned once: with 0.4 the network of the robustness study, trained on
# 1500 images for 8 epochs, gets between .55 and .60 of new images right, as the published one does on CIFAR-10 in its notebook.
CONTRAST = 0.4
SIDE = 32
CIFAR_ROW = 1 + 3 * SIDE * SIDE  # bytes: a label, then the red, green and blue planes


@dataclass(frozen=True)
class Images:
    """``x`` [n, channels, height, width] with pixels in [-0.5, 0.5], labels ``y`` [n] from 0 to 9."""

    name: str
    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def split(self, seed: int, *sizes: int) -> list[Images]:
        """Disjoint random parts of the given sizes; raises BadInput when there are too few images."""
        if sum(sizes) > len(self):
            raise BadInput(f"{self.name} holds {len(self)} images, {sum(sizes)} are needed")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return [Images(self.name, self.x[i], self.y[i]) for i in order[:sum(sizes)].split(list(sizes))]


def digits() -> Images:
    """scikit-learn's 1797 handwritten digits, [1, 8, 8]."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise BadInput("the study uses scikit-learn's digits: pip install scikit-learn") from error
    data = load_digits()
    return Images("digits", torch.tensor(data.images, dtype=torch.float32)[:, None] / 16 - 0.5, torch.tensor(data.target))


def patches(count: int, seed: int = 0, contrast: float = CONTRAST) -> Images:
    """``count`` images [3, 32, 32]: a digit enlarged four times in a random colour, on a random patch of a photograph.

    The two photographs are those of scikit-learn. image = patch + contrast * ink * colour, cut to the pixel range; the colour is
    uniform in [-1, 1]^3. The same count, seed and contrast give the same images; digits repeat beyond 1797, patches do not.
    """
    from sklearn.datasets import load_sample_images

    small = digits()
    draw = torch.Generator().manual_seed(seed)
    photographs = [torch.tensor(i).permute(2, 0, 1).float() / 255 - 0.5 for i in load_sample_images().images]
    which = torch.cat([torch.randperm(len(small), generator=draw) for _ in range(-(-count // len(small)))])[:count]
    ink = (small.x[which] + 0.5).repeat_interleave(4, -1).repeat_interleave(4, -2)
    colour = 2 * torch.rand(count, 3, 1, 1, generator=draw) - 1
    ground = torch.stack([_patch(photographs, draw) for _ in range(count)])
    return Images("digits on photographs", (ground + contrast * ink * colour).clamp(LOW, HIGH), small.y[which])


def _patch(photographs: list[Tensor], draw: torch.Generator) -> Tensor:
    picture = photographs[int(torch.randint(len(photographs), (), generator=draw))]
    top, left = (int(torch.randint(size - SIDE + 1, (), generator=draw)) for size in picture.shape[1:])
    return picture[:, top:top + SIDE, left:left + SIDE]


# --- files of the user --------------------------------------------------------------------------------------------------
def read_folder(folder: Path) -> Images:
    """MNIST (IDX files) or CIFAR-10 (binary version) from a folder; raises BadInput when it holds neither."""
    if not folder.is_dir():
        raise BadInput(f"no such folder: {folder}")
    if any(folder.glob("data_batch_*.bin")):
        return cifar10(folder)
    if any(folder.glob("*-images*idx3-ubyte*")) or any(folder.glob("*-images.idx3*")):
        return mnist(folder)
    if any(folder.glob("data_batch_*")):
        raise BadInput(f"{folder} holds CIFAR-10 as pickles, which could run code; take the binary version (data_batch_1.bin ...)")
    raise BadInput(f"{folder} holds neither CIFAR-10 (data_batch_*.bin) nor MNIST (train-images-idx3-ubyte and its labels)")


def cifar10(folder: Path) -> Images:
    """The training images of CIFAR-10, binary version: files data_batch_*.bin of rows of 1 + 3072 bytes."""
    rows = [_cifar_rows(file) for file in sorted(folder.glob("data_batch_*.bin"))]
    if not rows:
        raise BadInput(f"{folder} holds no data_batch_*.bin")
    table = np.concatenate(rows)
    x = torch.from_numpy(table[:, 1:].astype(np.float32)).reshape(-1, 3, SIDE, SIDE) / 255 - 0.5
    return Images("CIFAR-10", x, _labels(table[:, 0], folder))


def _cifar_rows(file: Path) -> np.ndarray:
    content = np.frombuffer(_bytes(file), dtype=np.uint8)
    if not len(content) or len(content) % CIFAR_ROW:
        raise BadInput(f"{file} is not a batch of CIFAR-10: {len(content)} bytes are no multiple of {CIFAR_ROW}")
    return content.reshape(-1, CIFAR_ROW)


def mnist(folder: Path) -> Images:
    """The training images of MNIST, IDX files, plain or gzipped: *-images*idx3-ubyte and *-labels*idx1-ubyte."""
    x = _idx(_only(folder, "images"), 3)
    y = _idx(_only(folder, "labels"), 1)
    if len(x) != len(y):
        raise BadInput(f"{folder} holds {len(x)} images but {len(y)} labels")
    return Images("MNIST", torch.from_numpy(x.astype(np.float32))[:, None] / 255 - 0.5, _labels(y, folder))


def _only(folder: Path, kind: str) -> Path:
    found = sorted(folder.glob(f"train-{kind}*idx*")) or sorted(folder.glob(f"*-{kind}*idx*"))
    if not found:
        raise BadInput(f"{folder} holds no IDX file of {kind}")
    return found[0]


def _idx(file: Path, dimensions: int) -> np.ndarray:
    """An IDX file of unsigned bytes: 0, 0, 8, the number of axes, each length as 4 bytes big-endian, then the values."""
    content = _bytes(file)
    head = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) < head:
        raise BadInput(f"{file} is not an IDX file of {dimensions} axes of bytes")
    shape = np.frombuffer(content[4:head], dtype=">u4").astype(int)
    if len(content) - head != int(np.prod(shape)):
        raise BadInput(f"{file} is cut off: its head promises {'x'.join(map(str, shape))} bytes, {len(content) - head} are there")
    return np.frombuffer(content, dtype=np.uint8, offset=head).reshape(shape)


def _bytes(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if file.suffix == ".gz" else content
    except (OSError, EOFError) as error:
        raise BadInput(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error


def _labels(values: np.ndarray, folder: Path) -> Tensor:
    if values.size and int(values.max()) > 9:
        raise BadInput(f"{folder} holds the label {int(values.max())}; labels run from 0 to 9")
    return torch.from_numpy(values.astype(np.int64))
