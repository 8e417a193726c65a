"""Ray addresses and temporary folders, before Ray is asked."""

import socket

import pytest

from cluster.addresses import LONGEST_SOCKET, SOCKET, ClusterError, joined_address, refuse_long_folder


@pytest.mark.parametrize("said", [None, "", "  "])
@pytest.mark.parametrize("environment", [{}, {"RAY_ADDRESS": ""}, {"RAY_ADDRESS": " "}, {"RAY_ADDRESS": "local"}])
def test_an_empty_address_is_as_none(said: str | None, environment: dict[str, str]) -> None:
    assert joined_address(said, environment) is None


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_at_which_something_answers_is_joined(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
        assert joined_address(address, {"RAY_ADDRESS": "other:1"}) == address
        assert joined_address(None, {"RAY_ADDRESS": f" {address} "}) == address
    assert joined_address("auto", {}) == "auto"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:8265", "address of a dashboard"), ("https://ray.example.com", "address of a dashboard"),
        ("head", "no address"), ("6379", "no address"), ("127.0.0.1", "no address"), (":6379", "no address"),
        ("head:port", "no address"), ("head:99999", "no address"), ("s3://bucket", "no address"), ("ray://head", "no address"),
        ("127.0.0.1:1", "nothing answers"), ("ray://127.0.0.1:1", "nothing answers"),
        ("no-such-host.invalid:6379", "nothing answers"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_joined_is_told_at_once(address: str, said: str) -> None:
    """Catches two minutes of waiting and a traceback, for the dashboard's address in place of the cluster's."""
    for given, environment, name in ((address, {}, "--ray-address"), (None, {"RAY_ADDRESS": address}, "RAY_ADDRESS")):
        with pytest.raises(ClusterError) as refused:
            joined_address(given, environment)
        assert f"{name} {address}: " in str(refused.value)
        assert said in str(refused.value)


def test_a_temporary_folder_is_refused_exactly_where_sockets_cannot_be_named() -> None:
    most = "/" + "x" * (LONGEST_SOCKET - len(SOCKET) - 1)
    refuse_long_folder({"TMPDIR": most})
    refuse_long_folder({"RAY_TMPDIR": "/tmp", "TMPDIR": most + "x"})
    for name in ("TMPDIR", "RAY_TMPDIR"):
        with pytest.raises(ClusterError, match=f"{name} is {most}x, of {len(most) + 1} bytes"):
            refuse_long_folder({name: most + "x"})
