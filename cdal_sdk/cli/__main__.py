"""`python -m cdal_sdk.cli`, for where the `cdal` script is not on the path."""

from cdal_sdk.cli.app import main

main()
