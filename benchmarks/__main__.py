"""`make bench NAME=...`: run one benchmark of this folder; it prints one JSON line with ours, peer, ratio and bound.

A name is a module here (`near_dedup`), or a module with an argument behind an underscore (`training_step_bf16`).
"""

import runpy
import sys
from pathlib import Path


def main() -> int:
    """Run the benchmark named on the command line; the rest of the line goes to it."""
    folder = Path(__file__).parent
    names = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    module = max((name for name in names if wanted == name or wanted.startswith(f"{name}_")), key=len, default=None)
    if module is None:
        print(f"no benchmark '{wanted}'; choose one of: {', '.join(names)}", file=sys.stderr)
        return 2
    rest = [wanted.removeprefix(module).lstrip("_")] if wanted != module else []
    sys.argv = [f"benchmarks.{module}", *rest, *sys.argv[2:]]
    sys.path.insert(0, str(folder.parent))
    runpy.run_path(str(folder / f"{module}.py"), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
