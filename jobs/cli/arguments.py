"""Options that every job has, spelled and explained alike."""

import argparse
import os

STORAGE_OPTIONS = "WORDMINT_STORAGE_OPTIONS"


def add_storage(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--storage-option",
        action="append",
        default=os.environ.get(STORAGE_OPTIONS, "").split(),
        metavar="KEY=VALUE|@FILE",
        help="for S3, such as endpoint_url=http://minio:9000; gs.NAME=VALUE for Google's store, az. and hdfs. likewise; @FILE: "
        "one a line, where other accounts of the machine cannot see it (may be repeated; default: what the environment's "
        f"{STORAGE_OPTIONS} lists)",
    )


def add_storage_and_cluster(parser: argparse._ActionsContainer) -> None:
    add_storage(parser)
    parser.add_argument("--verbose", action="store_true", help="also say what goes as it should")
    parser.add_argument(
        "--ray-address", metavar="ADDRESS", help="cluster to join (default: the job's own, else a local Ray)"
    )
