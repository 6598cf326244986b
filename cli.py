"""Run vderain from a checkout: `python cli.py process in.mp4`."""

from vderain.__main__ import main

if __name__ == "__main__":
    main()
