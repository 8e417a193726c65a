"""Options that every job has, spelled and explained alike."""

import argparse


def add_storage(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--storage-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="for fsspec, such as endpoint_url=http://minio:9000 (may be repeated)",
    )


def add_storage_and_cluster(parser: argparse._ActionsContainer) -> None:
    add_storage(parser)
    parser.add_argument(
        "--ray-address", metavar="ADDRESS", help="cluster to join (default: the job's own, else a local Ray)"
    )
