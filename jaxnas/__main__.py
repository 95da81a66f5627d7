"""`python -m jaxnas`: the same as the command `jaxnas`."""

from jaxnas.cli import main

if __name__ == "__main__":
    main()
