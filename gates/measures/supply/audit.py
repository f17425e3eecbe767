"""Known vulnerabilities, where an advisory source answers."""

import json
import subprocess
import sysconfig

Answer = tuple[list[str] | None, str]  # what is known, or None; and a sentence on what was compared, or why nothing was


def audit(interpreter: str) -> Answer:
    """Run an interpreter's pip-audit on the packages of this environment."""
    site = sysconfig.get_path("purelib")
    command = [interpreter, "-m", "pip_audit", "--path", site, "--format", "json", "--progress-spinner", "off"]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError as error:
        return None, f"not measured: {interpreter} cannot run ({error.strerror})"
    return read_answer(done.stdout, done.stderr)


def read_answer(output: str, errors: str) -> Answer:
    """What pip-audit says, whose exit code is 0 also where no source answered: skipped packages do not count."""
    try:
        packages = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (errors.strip().splitlines() or ["it printed nothing"])[-1]
        return None, f"not measured: no advisory source answered ({last})"
    compared = [package for package in packages if "skip_reason" not in package]
    if not compared:
        return None, f"not measured: no advisory source answered for any of {len(packages)} packages"
    found = [f"{each['name']} {each['version']}: {flaw['id']}" for each in compared for flaw in each["vulns"]]
    return found, f"{len(found)}, compared {len(compared)} of {len(packages)} packages"
