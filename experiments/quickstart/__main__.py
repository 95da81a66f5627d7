"""`python -m experiments.quickstart`: the same as `python -m jaxnas.quickstart`."""

from jaxnas.quickstart.__main__ import main

if __name__ == "__main__":
    main()
