"""Options that several commands share: the storage, the log level and the Ray cluster."""

import argparse
import os

STORAGE_OPTIONS = "WORDMINT_STORAGE_OPTIONS"


def add_storage(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--storage-option",
        action="append",
        default=os.environ.get(STORAGE_OPTIONS, "").split(),
        metavar="KEY=VALUE|@FILE",
        help="option of the storage: for S3 such as endpoint_url=http://minio:9000, for other stores with the prefix gs., az. or "
        "hdfs.; @FILE reads options from a file, one a line, and so hides them from other accounts of the machine (may be "
        f"repeated; default: those in the environment variable {STORAGE_OPTIONS})",
    )


def add_log(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--verbose", action="store_true", help="log information as well as warnings")
    parser.add_argument(
        "--log-format", choices=("text", "json"), default="text", help="json: one object a line (default: %(default)s)"
    )


def add_storage_and_cluster(parser: argparse._ActionsContainer) -> None:
    add_storage(parser)
    add_log(parser)
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="Ray cluster to join (default: that of the submitted job, else a local one)",
    )
