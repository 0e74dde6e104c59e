"""python -m benchmarks NAME [options]: run a benchmark; without a name, list them."""

from benchmarks.harness import main

if __name__ == "__main__":
    main()
