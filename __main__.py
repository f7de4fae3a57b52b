"""`python -m diptych`, and `accelerate launch -m diptych`."""

from .pipeline.cli.main import main

if __name__ == "__main__":
    main()
