"""Run vderain from a checkout: `python cli.py process in.mp4`."""

from vderain.cli.main import main

if __name__ == "__main__":
    main()
