import subprocess
import sys


def test_import_pulls_in_no_optional_dependency() -> None:
    optional = (
        "mpmath",
        "hypothesis",
        "gmpy2",
        "geoopt",
        "scipy",
        "matplotlib",
        "transformers",
        "triton",
        "torch._dynamo",
    )
    code = f"import sys, hyperbolic; print([m for m in {optional} if m in sys.modules])"
    before = f"import sys, torch; print([m for m in {optional} if m in sys.modules])"
    loaded, by_torch = (
        subprocess.run([sys.executable, "-c", c], capture_output=True, text=True, check=True).stdout
        for c in (code, before)
    )
    assert loaded == by_torch
