"""What `make` and `.ci/run` run beside the package: reports of test runs and their gates."""
