"""`python -m codeflow`."""

from codeflow.cli import main

main()
