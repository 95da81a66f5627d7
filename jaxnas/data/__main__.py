"""Writes a data set, from the files that its authors publish or from a folder of pictures, to an .npz file.

CIFAR-10 and CIFAR-100: the archive of the python or the binary version. MNIST, Fashion-MNIST and Kuzushiji-MNIST: the
folder of the four idx files. Any other name: a folder of pictures, one folder per class.
"""

import argparse
import os
import sys
from pathlib import Path

from jaxnas.data import prepare
from jaxnas.errors import DataError


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m jaxnas.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prepare", help="write a data set to an .npz file", description=__doc__)
    command.add_argument("name", help="cifar10, cifar100, mnist, fashion_mnist, kmnist, or any name for your pictures")
    command.add_argument("--from", dest="source", required=True, help="the archive, or the folder")
    command.add_argument("--out", default=".", help="an .npz file, or the folder to write NAME.npz to (default: here)")
    command.add_argument("--image-size", type=int, help="resize the images of a folder of pictures to so many pixels")
    options = parser.parse_args()
    size = None if options.image_size is None else (options.image_size, options.image_size)
    out = Path(options.out).expanduser()
    file = out if out.suffix == ".npz" else out / f"{options.name}.npz"
    try:
        if file.exists():
            raise DataError(f"{file}: is there already; remove it, or give another --out.")
        data = prepare(options.name, options.source, image_size=size)
        data.save(file)
    except (DataError, OSError) as e:
        sys.exit(f"error: {e}")
    print(data)
    print(f"Written to {file} ({os.path.getsize(file) / 2**20:.0f} MiB). Give it as the data, or on the command line:")
    print(f"  --data {file}")
    if file.name == f"{data.name}.npz":
        print(f"  --data {data.name} --data-dir {file.parent}")


if __name__ == "__main__":
    main()
