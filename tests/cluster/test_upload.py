"""What a submitted job uploads: Ray's own packing of a folder that is like this repository, with keys in it."""

import shutil
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import _zip_files

from cluster.upload import main, uploaded

ROOT = Path(__file__).parents[2]
KEYS = (
    ".env", ".env.local", "prod.env", ".netrc", ".aws/credentials", ".ssh/config", "id_rsa", "keys/id_ed25519", "deploy.pem",
    "tls.key", "auth_token", "gcp-credentials.json", "my-secret.yaml", "storage-options.txt", "service-account-1.json",
    "jobs/.env", ".git/config", "cluster/terraform.tfstate", "hf-token", ".pypirc",
    ".npmrc", ".boto", ".s3cfg", ".vault-token", ".gnupg/private", "prod.kubeconfig", "kubeconfig.yaml", "rclone.conf", "key.asc",
)  # fmt: skip
NEEDED = (
    "jobs/invert_all.py",
    "pipeline/mini/model/tokenizer/tokenizer.json",
    "constraints.txt",
    "eval/report/report.js",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (".gitignore", ".rayignore"):
        shutil.copy(ROOT / name, tmp_path)
    for name in (*KEYS, *NEEDED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    return tmp_path


def test_keys_and_environment_files_stay_at_home(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Catches the keys of a laptop in a bucket that a whole team reads."""
    packed = tmp_path_factory.mktemp("packed") / "package.zip"
    _zip_files(str(folder), [], str(packed), include_gitignore=True)
    with zipfile.ZipFile(packed) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    assert not names.intersection(KEYS)
    assert names >= set(NEEDED)
    assert set(uploaded(folder)) == names


def test_what_goes_is_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(folder)
    said = capsys.readouterr().out
    assert "jobs/invert_all.py" in said
    assert f"bytes in {len(uploaded(folder))} files" in said
    assert "id_rsa" not in said


def test_nothing_that_the_repository_needs_stays_at_home() -> None:
    files = uploaded(ROOT)
    assert {
        "pipeline/store/storage.py",
        "jobs/demo/manifest.csv",
        "cluster/session.py",
        "pyproject.toml",
    } <= files.keys()
