"""Run vderain as a module: `python -m vderain`, `torchrun --nproc-per-node 2 -m vderain train ...`."""

from vderain.cli.main import main

if __name__ == "__main__":
    main()
