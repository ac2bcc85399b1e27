"""Images with the names of the public ones, made of this machine's packages: there is no registry.

Each does what its namesake does as far as docker-compose.yml uses it: the same users, folders,
variables and programs. What it cannot be is the namesake: no Alpine, no TimescaleDB, other
versions of Redis and PostgreSQL.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.compose.engine import PLUGINS, Engine

DEBIAN = "debian:12.13-slim"
HERE = Path(__file__).resolve().parent / "images"
STAND_INS = {
    "nats": "nats:2.12.8-alpine",
    "timescaledb": "timescale/timescaledb:2.20.3-pg15",
    "redis": "redis:7.2.11-alpine",
}
_NOT_IN_SLIM = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "var/cache")
# As in the public image: apt keeps nothing of what it has fetched.
_APT_CLEAN = """
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


def make_debian(engine: Engine) -> None:
    """Debian's base system, without what the slim image leaves out.

    It trusts the certificates that this machine trusts, so that pip works where they are its own.
    """
    root = engine.folder / "debian"
    source = (PLUGINS / "source").read_text().strip()
    with (engine.folder / "debootstrap.log").open("wb") as log:
        subprocess.run(
            ["/usr/sbin/debootstrap", "--variant=minbase", "bookworm", root, source],
            check=True,
            stdout=log,
            stderr=log,
        )
    for name in _NOT_IN_SLIM:
        shutil.rmtree(root / name)
        (root / name).mkdir()
    for entry in (root / "var/lib/apt/lists").iterdir():
        entry.unlink() if entry.is_file() else shutil.rmtree(entry)
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(
        "".join(f"path-exclude /{name}/*\n" for name in _NOT_IN_SLIM[:-1])
    )
    (root / "etc/apt/apt.conf.d/docker-clean").write_text(_APT_CLEAN)
    if _AUTHORITIES.exists():
        shutil.copy(_AUTHORITIES, root / "etc/ssl-authorities.crt")
        (root / "etc/pip.conf").write_text("[global]\ncert = /etc/ssl-authorities.crt\n")
    packed = engine.folder / "debian.tar"
    subprocess.run(["/bin/tar", "-C", root, "-cf", packed, "."], check=True)
    shutil.rmtree(root)
    engine.run("import", packed, DEBIAN)
    packed.unlink()


def make_stand_ins(engine: Engine) -> None:
    """The public images that docker-compose.yml and our Dockerfiles name."""
    make_debian(engine)
    for name, image in STAND_INS.items():
        engine.run("build", "--network=host", "--tag", image, HERE / name, within_secs=600)
